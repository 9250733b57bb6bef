"""Process advantages as loops from their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lgrpo_lightning.process_tree import ProcessTree


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and deviation (Bessel) of the values that are no NaN."""
    there = [v for v in values if not math.isnan(v)]
    if not there:
        return 0.0, 0.0
    mean = sum(there) / len(there)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in there) / (len(there) - 1)) if len(there) > 1 else 0.0


def path(tree: ProcessTree, member: int) -> list[tuple[int, int, int]]:
    """(step, first token, one past its last) of a completion's own steps, in order."""
    found = []
    for number, step in enumerate(tree.steps):
        for m, (start, end) in zip(step.members, step.spans, strict=True):
            if m == member:
                found.append((number, start, end))
    return sorted(found, key=lambda s: s[1])


def process_advantages(
    rewards: Sequence[float], tree: ProcessTree, *, scale: bool, nodes: bool, eps: float = 1e-4
) -> list[list[float]]:
    """DeepSeekMath, 4.1.3: the sum of the normalised rewards of a token's own and later steps."""
    size = len(tree.set_sizes())
    pool = list(rewards) if nodes else [rewards[s] for i in range(size) for s, _, _ in path(tree, i)]
    mean, std = mean_std(pool)
    there = [v for v in pool if not math.isnan(v)]
    flat = len(there) < 2 or len(set(there)) == 1
    out = []
    for i in range(size):
        own = path(tree, i)
        row = []
        for t in range(own[-1][2] if own else 0):
            total = 0.0
            for s, _, end in own:
                if end - 1 >= t and not math.isnan(rewards[s]) and not flat:
                    total += (rewards[s] - mean) / ((std + eps) if scale else 1.0)
            row.append(total)
        out.append(row)
    return out


def minimum_advantages(
    rewards: Sequence[float], tree: ProcessTree, *, scale: bool, eps: float = 1e-4
) -> list[list[float]]:
    """The minimum of a token's own and later step rewards, against the minima of all steps of the group."""
    paths = [path(tree, i) for i in range(len(tree.set_sizes()))]

    def to_come(own: list[tuple[int, int, int]], t: int) -> float:
        return min((rewards[s] for s, _, end in own if end > t and not math.isnan(rewards[s])), default=math.nan)

    pool = [to_come(own, end - 1) for own in paths for s, _, end in own if not math.isnan(rewards[s])]
    mean, std = mean_std(pool)
    out = []
    for own in paths:
        minima = [to_come(own, t) for t in range(own[-1][2] if own else 0)]
        flat = len(set(pool)) < 2
        out.append([0.0 if flat or math.isnan(m) else (m - mean) / ((std + eps) if scale else 1.0) for m in minima])
    return out


def outcome_advantages(rewards: Sequence[float], *, scale: bool, eps: float = 1e-4) -> list[float]:
    """GRPO's; NaN gives 0, equal rewards 0."""
    mean, std = mean_std(rewards)
    there = [v for v in rewards if not math.isnan(v)]
    if len(there) < 2 or len(set(there)) == 1:
        return [0.0] * len(rewards)
    return [0.0 if math.isnan(r) else (r - mean) / ((std + eps) if scale else 1.0) for r in rewards]


def tempo(rewards: Sequence[float], sequences: Sequence[Sequence[int]], *, eps: float = 1e-4) -> list[list[float]]:
    """GRPO's advantage and the change in the mean reward of those that share the prefix."""
    plain = outcome_advantages(rewards, scale=True)
    _, std = mean_std(rewards)

    def value(i: int, t: int) -> float:
        return mean_std(
            [r for r, y in zip(rewards, sequences, strict=True) if y[:t] == sequences[i][:t] and len(y) >= t]
        )[0]

    return [
        [
            plain[i] + (0.0 if math.isnan(rewards[i]) else (value(i, t + 1) - value(i, t)) / (std + eps))
            for t in range(len(y))
        ]
        for i, y in enumerate(sequences)
    ]
