"""What of a run's code is noted, and what of it has changed."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from pathlib import Path

import torch

from lgrpo_lightning.checkpoints.code import list_changed_code, read_code


def reward() -> None:
    """A function that a component holds."""


class Inner:
    """A part of a component."""


class Component:
    """Holds code in every way that a component may."""

    def __init__(self) -> None:
        self.functions = {"a": [partial(reward, 1)]}
        self.inner = (Inner(),)
        self.rest = [torch.nn.Linear(1, 1), 3, "text", torch.zeros(1)]


def test_the_files_of_all_that_a_component_holds() -> None:
    found = read_code({"one": Component(), "other": reward})
    digest = sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    own = {name: value for name, value in found.items() if "." in name}
    assert own == {f"{__name__}.{name}": digest for name in ("reward", "Inner", "Component")}
    assert found["torch"] == torch.__version__


def test_what_holds_itself_ends() -> None:
    class Circle:
        def __init__(self) -> None:
            self.me, self.all = self, [self]

    assert [name.rpartition(".")[2] for name in read_code({"one": Circle()}) if "." in name] == ["Circle"]


def test_only_what_differs_and_both_have_is_said() -> None:
    was = {"torch": "1", "numpy": "2", "mine.reward": "ab", "gone": "1"}
    now = {"torch": "3", "numpy": "2", "mine.reward": "cd", "new": "1"}
    assert list_changed_code(was, now) == [
        "  mine.reward: the file in which it is written has changed", "  torch: 1 -> 3",
    ]  # fmt: skip
