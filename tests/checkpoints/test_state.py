"""Random numbers go on where they were, those that a generator keeps for its next call included."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from lgrpo_lightning.checkpoints.state import (
    load_component_state,
    read_component_state,
    read_rng_state,
    set_rng_state,
)


def draw() -> list[float]:
    """An odd number of normal numbers of each: Python and numpy draw two at a time and keep the second."""
    return [random.gauss(0, 1), float(np.random.standard_normal()), float(torch.randn(())), random.random()]


def test_random_numbers_go_on(tmp_path: Path) -> None:
    before = read_rng_state()
    draw()
    torch.save(read_rng_state(), tmp_path / "state.pt")
    expected = [draw() for _ in range(3)]
    set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draw() for _ in range(3)] == expected
    set_rng_state(before)


class Counter:
    """A component with a state."""

    def __init__(self, count: int) -> None:
        self.count = count

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def test_components_that_have_a_state_get_theirs_back() -> None:
    state = read_component_state({"one": Counter(3), "other": Counter(5), "plain": object()})
    assert state == {"one": {"count": 3}, "other": {"count": 5}}
    one, new = Counter(0), Counter(7)
    load_component_state({"one": one, "new": new, "plain": object()}, state)
    assert (one.count, new.count) == (3, 7)
