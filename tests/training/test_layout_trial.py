"""The layouts are timed once, the fastest is taken, and timing them changes nothing that is trained."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lgrpo_lightning.policy.layout import Layout
from lgrpo_lightning.policy.prefix_layout import PrefixLayout
from lgrpo_lightning.training.layout_trial import LayoutTrial
from tests.runs import checkpoint, fit

RUN = {"trainer__max_steps": 2, "trainer__limit_val_batches": 0}


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    monkeypatch.setattr(LayoutTrial, "applies", lambda self, policy: policy.config.layout == "auto")


def slow(monkeypatch: pytest.MonkeyPatch, *layouts: Any) -> None:
    def later(run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            time.sleep(0.3)
            return run(*args, **kwargs)

        return wrapped

    for layout in layouts:
        monkeypatch.setattr(layout, "run", later(layout.run))


def same_weights(a: Path, b: Path) -> None:
    left, right = (checkpoint(root)["state_dict"] for root in (a, b))
    assert all(torch.equal(x, right[name]) for name, x in left.items())  # type: ignore[attr-defined, index]


@pytest.mark.long
@pytest.mark.usefixtures("timed")
def test_the_fastest_is_taken_once_and_trains_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        slow(patched, Layout)  # trees run as padded rows do
        whole, half = (
            fit(tmp_path / name, **RUN | {"trainer__max_steps": n}) for name, n in (("whole", 2), ("half", 1))
        )
    said = re.findall(
        r"Layout of the update: (\w+); the fastest on the first rollout \((.*)\)", capsys.readouterr().out
    )
    assert [layout for layout, _ in said] == ["prefix", "prefix"]
    assert all(name in said[0][1] for name in ("padded", "tree", "prefix"))
    same_weights(whole, fit(tmp_path / "configured", **RUN, model__policy__layout="prefix"))
    slow(monkeypatch, PrefixLayout)
    same_weights(whole, fit(half, **RUN, ckpt_path="last"))
    assert "Layout of the update: prefix; the fastest" in capsys.readouterr().out
    fit(half, **RUN | {"trainer__max_steps": 3}, ckpt_path="last", model__policy__layout="padded")
    assert "Layout of the update: padded; as configured." in capsys.readouterr().out


@pytest.mark.usefixtures("timed")
def test_a_layout_that_fails_its_check_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(PrefixLayout, "run", fail)
    fit(tmp_path, **RUN)
    assert re.search(r"Layout of the update: \w+; .*\(padded [\d,]+ ms, tree [\d,]+ ms\)", capsys.readouterr().out)


@pytest.mark.usefixtures("timed")
def test_a_layout_without_memory_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, passes = PrefixLayout.run, [0]

    def exhaust(*args: Any, **kwargs: Any) -> Any:
        passes[0] += torch.is_grad_enabled()
        if passes[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(*args, **kwargs)

    monkeypatch.setattr(PrefixLayout, "run", exhaust)
    fit(tmp_path, **RUN)
    assert re.search(r"Layout of the update: (padded|tree); .*prefix inf ms", capsys.readouterr().out)
