"""Means over tokens, completions and groups, exact over ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch import Tensor

from lgrpo_lightning.functional import equal_rewards, reaches
from lgrpo_lightning.types import Rollout


class Means:
    """Named sums and counts. ``merge`` those of all ranks, then read ``values``.

    >>> means = Means()
    >>> means.add("x", torch.tensor([1.0, 3.0])); means.add("x", torch.tensor([5.0])); means.values()
    {'x': 3.0}
    """

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, float]] = {}
        self.extremes: dict[str, tuple[float, bool]] = {}
        self.pending: list[tuple[Tensor, Callable[..., None]]] = []  # numbers still on a device, and who takes them

    def add(self, name: str, values: Tensor, mask: Tensor | None = None) -> None:
        """Count ``values`` (where ``mask``) into the mean called ``name``; NaN does not count.

        The numbers stay on their device until they are asked for: reading them here would hold up the next pass.
        """
        values = values.detach().float()
        counted = ~values.isnan() if mask is None else mask & ~values.isnan()
        both = torch.stack([torch.where(counted, values, 0.0).sum(), counted.sum().float()])
        self.pending.append((both, partial(self.put, name)))

    def settle(self) -> Means:
        """Read all numbers that are still on a device, with one copy from each; itself."""
        pending, self.pending = self.pending, []
        for device in {tensor.device for tensor, _ in pending}:
            here = [(tensor, take) for tensor, take in pending if tensor.device == device]
            numbers = iter(torch.cat([tensor for tensor, _ in here]).tolist())
            for tensor, take in here:
                take(*islice(numbers, len(tensor)))
        return self

    def put(self, name: str, total: float, count: float = 1.0) -> None:
        """Add a sum over ``count`` values."""
        before = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (before[0] + total, before[1] + count)

    def extreme(self, name: str, value: float | Tensor, *, largest: bool) -> None:
        """Keep the largest (or smallest) value called ``name``; a tensor is read when numbers are asked for.

        -inf is no largest value, and inf no smallest: they stand for none.
        """
        if isinstance(value, Tensor):
            self.pending.append((value.detach().float().view(1), partial(self.extreme, name, largest=largest)))
            return
        if value == (-math.inf if largest else math.inf):
            return
        if name in self.extremes:
            value = (max if largest else min)(value, self.extremes[name][0])
        self.extremes[name] = (value, largest)

    @classmethod
    def merge(cls, parts: Iterable[Means]) -> Means:
        """The means of all parts together."""
        out = cls()
        for part in parts:
            for name, (total, count) in part.settle().sums.items():
                out.put(name, total, count)
            for name, (value, largest) in part.extremes.items():
                out.extreme(name, value, largest=largest)
        return out

    def values(self) -> dict[str, float]:
        """Name → mean; NaN where nothing was counted."""
        self.settle()
        means = {name: total / count if count else math.nan for name, (total, count) in self.sums.items()}
        return means | {name: value for name, (value, _) in self.extremes.items()}


def add_rollout_metrics(means: Means, rollout: Rollout, *, success_threshold: float) -> None:
    """What a rollout shows before any update: rewards, groups, completions, tree. Of all groups that it holds."""
    _add_rewards(means, rollout, success_threshold)
    _add_completions(means, rollout)
    for tree in rollout.trees:
        some = tree.trained.any(1)
        means.add("tree/path_depth", tree.path_depth(), some)
        means.add("tree/intermediate_proportion", tree.intermediate_proportion(), some)


def _add_rewards(means: Means, rollout: Rollout, success_threshold: float) -> None:
    for rewards in rollout.rewards:
        outcome = rewards.outcome
        valid = outcome[~outcome.isnan()]
        equal = bool(equal_rewards(outcome[None]))
        _add_mean(means, "reward", outcome)
        means.put("reward_std", _deviation(outcome))
        means.put("frac_reward_zero_std", float(equal))
        right = reaches(valid, success_threshold)
        means.put("groups/all_right", float(equal and len(valid) > 0 and bool(right.all())))
        means.put("groups/all_wrong", float(equal and len(valid) > 0 and not bool(right.any())))
        processes = rewards.steps is not None or rewards.tokens is not None
        unjudged = 0.0 if processes else float(outcome.isnan().sum())
        means.put("rewards/not_applicable", unjudged, float(len(outcome)))
        if rewards.steps is not None:
            _add_mean(means, "steps/reward", rewards.steps)
        for name, part in rewards.parts.items():
            _add_mean(means, f"rewards/{name}/mean", part)
            means.put(f"rewards/{name}/std", _deviation(part), float(not bool(part.isnan().all())))
        for name, value in rewards.metrics.items():
            means.put(name, value)
    means.add("groups/dropped", torch.tensor([not t for t in rollout.trained]))
    means.put("groups/sampled_per_trained", len(rollout.trained), sum(rollout.trained))


def _add_mean(means: Means, name: str, rewards: Tensor) -> None:
    """Count rewards in fp64; NaN does not count."""
    means.put(name, float(rewards.double().nansum()), float((~rewards.isnan()).sum()))


def _deviation(rewards: Tensor) -> float:
    """Standard deviation (Bessel) within a group; 0 for fewer than two, and where all are equal."""
    valid = rewards[~rewards.isnan()].double()
    return 0.0 if bool(equal_rewards(rewards[None])) else float(valid.std())


def pass_rates(rollout: Rollout, *, success_threshold: float) -> dict[str, float]:
    """Uid of each prompt → the share of its completions that are right; NaN where no reward applies to any."""
    rates = {}
    for group, rewards in zip(rollout.groups, rollout.rewards, strict=True):
        valid = rewards.outcome[~rewards.outcome.isnan()]
        rates[group.prompt.uid] = float(reaches(valid, success_threshold).float().mean())
    return rates


def _add_completions(means: Means, rollout: Rollout) -> None:
    rollouts = [r for g in rollout.groups for r in g.completions]
    for name, value in (pair for r in rollouts for pair in r.metrics.items()):
        means.put(name, value)
    rollouts = [r for r in rollouts if r.applies]
    lengths = torch.tensor([len(r) for r in rollouts])
    clipped = torch.tensor([r.truncated for r in rollouts], dtype=torch.bool)
    means.add("completions/mean_length", lengths)
    means.add("completions/mean_terminated_length", lengths, ~clipped)
    means.add("completions/clipped_ratio", clipped)
    if rollouts:
        means.extreme("completions/min_length", float(lengths.min()), largest=False)
        means.extreme("completions/max_length", float(lengths.max()), largest=True)


def add_weight_lag(means: Means, rollout: Rollout, version: int, *, expected: int) -> None:
    """How many optimizer steps older than the policy the weights are that completions come from.

    Said once where they are others than they were meant to come from.

    Args:
        version: Optimizer steps the policy has had.
        expected: Those of the weights that the sampler was to draw from.
    """
    oldest = min((r.weight_version for g in rollout.groups for r in g.completions), default=expected)
    means.extreme("sampling/weight_lag", float(version - oldest), largest=True)
    if oldest != expected:
        rank_zero_warn(  # the same words every time, so that they are said once
            "The sampler drew from weights that are older than those it was given; sampling/weight_lag says by how "
            "many optimizer steps. Does the sampler's sync() take over the weights it is called for, and do its "
            "rollouts carry their weight_version?"
        )
