"""The formulas of the estimators' papers as loops, and random batches to try them on. NaN: does not apply."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Credit, Rewards
from tests.reference import naive
from tests.reference.groups import matrix, random_group

NAN = math.nan


class Batch:
    """Groups of ragged completions with outcomes and two parts; some are equal, some do not apply, some are alone."""

    def __init__(self, seed: int, *, values: Sequence[float] = (0.0, 0.5, 1.0, 1.0, NAN), groups: int = 4) -> None:
        rng = random.Random(seed)
        self.groups = [random_group(100 * seed + n, empty=False) for n in range(groups)]
        self.trees = [ProcessTree.from_sequences(group) for group in self.groups]
        self.parts: list[dict[str, list[float]]] = [
            {name: [rng.choice(values) for _ in group] for name in ("a", "b")} for group in self.groups
        ]
        if seed % 3 == 0:
            self.parts[0] = {name: [0.7] * len(self.groups[0]) for name in ("a", "b")}
        self.weights = {"a": 1.0, "b": 0.5}
        self.outcomes = [[self._sum(a, b) for a, b in zip(p["a"], p["b"], strict=True)] for p in self.parts]
        self.rewards = [
            Rewards(
                outcome=torch.tensor(outcome),
                parts={name: torch.tensor(part) for name, part in parts.items()},
                part_weights={"b": 0.5},
            )
            for outcome, parts in zip(self.outcomes, self.parts, strict=True)
        ]

    def _sum(self, a: float, b: float) -> float:
        told = [w * v for w, v in ((1.0, a), (0.5, b)) if not math.isnan(v)]
        return sum(told) if told else NAN

    def credits(self, estimator: Any) -> list[Credit]:
        """What an estimator says, on one rank."""
        return list(estimator.estimate_batch(self.rewards, self.trees, reduce=lambda x: x))


def assert_close(found: torch.Tensor, rows: Sequence[Sequence[float]]) -> None:
    """A row each completion, without padding."""
    torch.testing.assert_close(found, matrix(rows)[:, : found.shape[1]], atol=1e-5, rtol=1e-5)


def spread(values: Sequence[float], group: Sequence[Sequence[int]]) -> list[list[float]]:
    """One value a completion, at each of its tokens."""
    return [[v] * len(y) for v, y in zip(values, group, strict=True)]


def on_two_ranks(call: Callable[[int, Callable[[torch.Tensor], torch.Tensor]], Any], rounds: int = 4) -> list[Any]:
    """``call(rank, reduce)`` on two ranks, one after the other.

    In each round a rank adds what the other gave in the round before, so that every round one sum more is right.
    """
    before: list[list[torch.Tensor]] = [[], []]
    results: list[Any] = [None, None]
    for _ in range(rounds):
        sent: list[list[torch.Tensor]] = [[], []]
        for rank in (0, 1):

            def reduce(
                x: torch.Tensor,
                mine: list[torch.Tensor] = sent[rank],
                other: list[torch.Tensor] = before[1 - rank],
            ) -> torch.Tensor:
                mine.append(x)
                return x + other[len(mine) - 1] if len(mine) <= len(other) else x

            results[rank] = call(rank, reduce)
        before = sent
    assert len(before[0]) == len(before[1]), "ranks call reduce equally often"
    return results


# -------------------------------------------------------------------------------------------- the papers' formulas


def rloo(rewards: Sequence[float]) -> list[float]:
    out = []
    for i, r in enumerate(rewards):
        others = [s for j, s in enumerate(rewards) if j != i and not math.isnan(s)]
        out.append(0.0 if math.isnan(r) or not others else r - naive.mean(others))
    return out


def max_rl(rewards: Sequence[float], eps: float) -> list[float]:
    valid = [r for r in rewards if not math.isnan(r)]
    return [0.0 if math.isnan(r) else (r - naive.mean(valid)) / (naive.mean(valid) + eps) for r in rewards]


def focal(rewards: Sequence[float], gamma: float, threshold: float) -> list[float]:
    valid = [r for r in rewards if not math.isnan(r)]
    rate = sum(r >= threshold for r in valid) / len(valid) if valid else 0.0
    return [(1 - rate) ** gamma * a for a in naive.advantages(rewards)]


def pass_at_k(rewards: Sequence[float], k: int, threshold: float) -> list[float]:
    """By the definition: subsets of k, each rewarded by whether one is right, normalised over all of them."""
    valid = [i for i, r in enumerate(rewards) if not math.isnan(r)]
    subsets = list(itertools.combinations(valid, min(k, len(valid))))
    scores = [float(any(rewards[i] >= threshold for i in s)) for s in subsets]
    centre = naive.mean(scores)
    sigma = math.sqrt(naive.mean([(s - centre) ** 2 for s in scores]))
    out = []
    for i in range(len(rewards)):
        own = [(s - centre) / sigma for s, sub in zip(scores, subsets, strict=True) if i in sub and sigma]
        out.append(naive.mean(own) if own else 0.0)
    return out


def reinforce_plus_plus(batch: Batch, *, baseline: bool, tokens: bool, eps: float = 1e-4) -> list[list[float]]:
    values = []
    for rewards in batch.outcomes:
        valid = [r for r in rewards if not math.isnan(r)]
        values.append([r - (naive.mean(valid) if baseline and valid else 0.0) for r in rewards])
    pool = [
        v
        for row, group in zip(values, batch.groups, strict=True)
        for v, y in zip(row, group, strict=True)
        for _ in range(len(y) if tokens else 1)
        if not math.isnan(v)
    ]
    centre, std = (naive.mean(pool), naive.deviation(pool)) if pool else (0.0, 0.0)
    return [[0.0 if math.isnan(v) else (v - centre) / (std + eps) for v in row] for row in values]


def gdpo(batch: Batch, eps: float = 1e-4) -> list[list[float]]:
    sums = []
    for parts, outcome in zip(batch.parts, batch.outcomes, strict=True):
        normal = {name: naive.advantages(part, eps=eps) for name, part in parts.items()}
        sums.append(
            [
                NAN if math.isnan(outcome[i]) else sum(batch.weights[n] * normal[n][i] for n in normal)
                for i in range(len(outcome))
            ]
        )
    pool = [s for row in sums for s in row if not math.isnan(s)]
    centre, std = (naive.mean(pool), naive.deviation(pool)) if pool else (0.0, 0.0)
    return [[0.0 if math.isnan(s) else (s - centre) / (std + eps) for s in row] for row in sums]


def tree_adv(rewards: Sequence[float], group: Sequence[Sequence[int]], q: float) -> list[list[float]]:
    own = naive.advantages(rewards)
    out = []
    for i, y in enumerate(group):
        row = []
        for t in range(len(y)):
            leaves = [own[j] for j in naive.process_set(group, i, t) if not math.isnan(rewards[j])]
            row.append(0.0 if math.isnan(rewards[i]) else sum(leaves) / len(leaves) ** q)
        out.append(row)
    return out


def gtpo(rewards: Sequence[float], group: Sequence[Sequence[int]], factor: float) -> list[list[float]]:
    own = naive.advantages(rewards)
    out = []
    for i, y in enumerate(group):
        row = []
        for t in range(len(y)):
            sharing = [own[j] for j in naive.process_set(group, i, t)]
            conflict = any(a > 0 for a in sharing) and any(a < 0 for a in sharing)
            row.append(own[i] * ((factor if own[i] > 0 else 0.0) if conflict else 1.0))
        out.append(row)
    return out


def traces(
    rewards: Sequence[float], group: Sequence[Sequence[int]], decay: float, floor: float | None
) -> list[list[float]]:
    own = naive.advantages(rewards)
    raised = [a if floor is None else max(a, floor) for a in own]
    return [[a * decay ** (len(y) - 1 - t) for t in range(len(y))] for a, y in zip(raised, group, strict=True)]


def preferences(group: Sequence[Sequence[int]], preference: float, ratio: float, eps: float = 1e-4) -> list[float]:
    lengths = [len(y) for y in group]
    std = naive.deviation(lengths)
    g = [(1 + ratio * (n - naive.mean(lengths)) / (std + eps)) ** preference for n in lengths]
    return [len(group) * math.exp(x) / sum(math.exp(v) for v in g) for x in g]


def preference_loss(batch: Batch, preference: float, ratio: float, power: float) -> float:
    """The value of the loss at the first update."""
    total, tokens = 0.0, 0
    for rewards, group in zip(batch.outcomes, batch.groups, strict=True):
        own, sizes = naive.advantages(rewards), naive.set_sizes(group)
        for f, a, row in zip(preferences(group, preference, ratio), own, sizes, strict=True):
            total += f * sum(a / n**power for n in row)
            tokens += len(row)
    return -total / tokens
