"""The last rollouts' metrics, and what they look like: steady, rising, far from the start."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What rules know of a run beside its metrics.

    Attributes:
        weighs_sets: Whether the estimator weighs tokens by their process sets, as λ-GRPO does.
        reward_weights: Name of a reward → its weight; 1 where it is not there.
        repeated: Share of the prompts seen whose text another row of the data has, too.
    """

    weighs_sets: bool = False
    reward_weights: Mapping[str, float] = field(default_factory=dict)
    repeated: float = 0.0


class Window:
    """The values of metrics over the last ``2 n`` rollouts, and their means over the first ``n`` of the run.

    Args:
        n: Rollouts in each of the two halves that are compared.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.values: dict[str, list[float]] = {}
        self.first: dict[str, list[float]] = {}
        self.best = math.nan  # mean of the reward over n rollouts in a row so far
        self.facts = Facts()

    def add(self, metrics: dict[str, float]) -> None:
        """Take a rollout's metrics; one that is not among them is NaN."""
        for name in self.values.keys() | metrics.keys():
            value = metrics.get(name, math.nan)
            self.values[name] = [*self.values.get(name, []), value][-2 * self.n :]
            if len(self.first.setdefault(name, [])) < self.n and not math.isnan(value):
                self.first[name].append(value)
        if len(self.first.get("reward", [])) >= self.n and not math.isnan(reward := self.get_mean("reward")):
            self.best = reward if math.isnan(self.best) else max(self.best, reward)

    def get_last(self, name: str) -> float:
        """The last value; NaN where there is none."""
        return self.values.get(name, [math.nan])[-1]

    def get_mean(self, name: str) -> float:
        """The mean over the last ``n`` rollouts."""
        return average(self.values.get(name, [])[-self.n :])

    def get_start(self, name: str) -> float:
        """The mean over the first ``n`` rollouts of the run; NaN before there are so many."""
        values = self.first.get(name, [])
        return average(values[: self.n]) if len(values) >= self.n else math.nan

    def get_error(self, name: str) -> float:
        """The standard error of the mean over the last ``n`` rollouts."""
        values = [v for v in self.values.get(name, [])[-self.n :] if math.isfinite(v)]
        middle = average(values)
        return math.sqrt(sum((v - middle) ** 2 for v in values)) / len(values) if values else math.nan

    @property
    def full(self) -> bool:
        """Whether there are two halves to compare."""
        return any(len(values) >= 2 * self.n for values in self.values.values())

    def compare_halves(self, name: str) -> int:
        """Whether the last ``n`` rollouts differ from the ``n`` before, by ``compare_means``; 0 for too few."""
        values = self.values.get(name, [])
        return compare_means(values[: self.n], values[self.n :]) if len(values) >= 2 * self.n else 0

    def compare_with_start(self, name: str) -> int:
        """The same against the first ``n`` rollouts of the run."""
        first, values = self.first.get(name, []), self.values.get(name, [])
        return compare_means(first[: self.n], values[-self.n :]) if len(first) >= self.n else 0

    def find_named(self, beginning: str, end: str) -> dict[str, float]:
        """The last values of the metrics ``<beginning><name><end>``, by name, without those that are not known."""
        last = {
            name.removeprefix(beginning).removesuffix(end): self.get_last(name)
            for name in self.values
            if name.startswith(beginning) and name.endswith(end)
        }
        return {name: value for name, value in last.items() if not math.isnan(value)}

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "first": self.first, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values, self.first = state["values"], state["first"]
        self.best = state.get("best", math.nan)


def share_repeated(texts: Mapping[str, Hashable]) -> float:
    """Of the rows of the data, by their ids, those whose text another one has.

    >>> share_repeated({"1": "a", "2": "b", "3": "a", "4": "c"})
    0.5
    """
    counts = Counter(texts.values())
    return sum(count for count in counts.values() if count > 1) / max(len(texts), 1)


def average(values: Sequence[float]) -> float:
    """Of those that are no NaN.

    >>> average([1.0, float("nan"), 3.0]), average([])
    (2.0, nan)
    """
    there = [v for v in values if not math.isnan(v)]
    return sum(there) / len(there) if there else math.nan


def compare_means(before: Sequence[float], after: Sequence[float]) -> int:
    """1 where ``after`` has the larger mean, -1 the smaller, 0 within the standard error of the difference.

    >>> compare_means([0.0, 0.1], [1.0, 1.1]), compare_means([1.0, 0.0], [0.9, 0.2])
    (1, 0)
    """
    pairs = [[v for v in values if math.isfinite(v)] for values in (before, after)]
    if not all(pairs):
        return 0
    error = math.sqrt(sum(sum((v - average(p)) ** 2 for v in p) / len(p) ** 2 for p in pairs))
    change = average(pairs[1]) - average(pairs[0])
    return 0 if abs(change) <= error else (1 if change > 0 else -1)
