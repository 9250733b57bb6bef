"""How often each prompt is drawn, by how often it is solved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lgrpo_lightning.errors import require


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    r"""Prompts of middling difficulty are drawn more often: in proportion to

    .. math:: w(p) = f + (1 - f) \, 4 p (1 - p), \qquad p \leftarrow d \, p + (1 - d) \, p_{group}

    with p the running pass rate of a prompt, whose first value is its first group's; a prompt that was never drawn has
    w = 1. p (1 - p) is the variance of a reward of 0 or 1, which a group-relative advantage is made of: the
    "learnability" of arXiv:2502.12272.

    Args:
        floor: f, the weight of prompts that are always or never solved, so that they are looked at again; above 0 and
            at most 1.
        decay: d, how much of the running rate stays where a new group comes in; at least 0 and below 1.

    Raises:
        ValueError: An option is out of range.
    """

    floor: float = 0.1
    decay: float = 0.5

    def __post_init__(self) -> None:
        require(
            "data.curriculum.",
            vars(self),
            (0 < self.floor <= 1, "floor", "above 0 and at most 1"),
            (0 <= self.decay < 1, "decay", "at least 0 and below 1"),
        )


class PassRates:
    """The running pass rate of every training prompt; the same on every rank, and kept in checkpoints.

    >>> rates = PassRates(Curriculum(floor=0.2), ["a", "b", "c"])
    >>> rates.add({"a": 1.0, "b": 0.5}); rates.weigh_prompts().tolist()
    [0.2, 1.0, 1.0]
    >>> rates.add({"a": 0.0}); rates.rates.tolist(), rates.weigh_prompts().tolist()
    ([0.5, 0.5, nan], [1.0, 1.0, 1.0])
    """

    def __init__(self, options: Curriculum, uids: Sequence[str]) -> None:
        self.options = options
        self.places = {uid: place for place, uid in enumerate(uids)}
        self.rates = np.full(len(uids), np.nan)

    def add(self, groups: Mapping[str, float]) -> None:
        """Take in the pass rates of groups by their prompts' uids; NaN, where no reward applies, says nothing."""
        decay = self.options.decay
        for uid, new in groups.items():
            if math.isnan(new) or uid not in self.places:
                continue
            old = float(self.rates[self.places[uid]])
            self.rates[self.places[uid]] = new if math.isnan(old) else decay * old + (1 - decay) * new

    def weigh_prompts(self) -> NDArray[np.float64]:
        """``[N]`` how often each prompt is drawn, relative to the others."""
        floor = self.options.floor
        known: NDArray[np.float64] = np.nan_to_num(self.rates, nan=0.5)
        return floor + (1 - floor) * 4 * known * (1 - known)

    def compute_metrics(self) -> dict[str, float]:
        """The share of prompts that were drawn at least once, and the mean running pass rate of those."""
        seen = ~np.isnan(self.rates)
        mean = float(self.rates[seen].mean()) if seen.any() else math.nan
        return {"curriculum/seen": float(seen.mean()), "curriculum/pass_rate": mean}

    def state_dict(self) -> dict[str, Any]:
        """The rates; -1 for prompts that were never drawn."""
        return {"pass_rates": torch.from_numpy(np.nan_to_num(self.rates, nan=-1.0))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them over; none of another number of prompts, or of a run without a curriculum."""
        saved = state.get("pass_rates")
        if saved is not None and len(saved) == len(self.rates):
            self.rates = np.where(saved.numpy() < 0, np.nan, saved.numpy())
