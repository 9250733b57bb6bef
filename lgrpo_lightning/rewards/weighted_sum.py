"""Several reward models as one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.contracts import RewardModel, WeightSource
from lgrpo_lightning.distributed.component_call import isolate
from lgrpo_lightning.errors import UserError, listed
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards.checks import RewardError, check_rewards
from lgrpo_lightning.types import Group, Progress, Rewards


class RewardSum(RewardModel):
    """The weighted sum of reward models; checks what each of them returns.

    A NaN part adds nothing; where all are NaN the sum is NaN. Each part is kept unweighted under a name of
    its own: the second of a name gets ``_2``. Metrics of one name are averaged.

    Args:
        models: The reward models, at least one.
        weights: One weight per model; all 1 by default.

    Raises:
        ValueError: No models, or another number of weights.
    """

    def __init__(self, models: list[RewardModel], weights: list[float] | None = None) -> None:
        if not models:
            raise UserError("There is no reward model; give at least one, such as ExactMatch.")
        if weights is not None:
            weights = list(listed("reward_weights", weights, of=(int, float)))
        if weights is not None and len(weights) != len(models):
            raise UserError(
                f"reward_weights are {len(weights)}, {weights}, for {len(models)} reward models "
                f"({', '.join(m.name for m in models)}); give one weight per model."
            )
        if not all(map(math.isfinite, weights or ())):
            raise UserError(f"reward_weights are {weights}; they must be finite.")
        self.models = list(models)
        self.weights = [1.0] * len(models) if weights is None else [float(w) for w in weights]
        for name in ("columns", "contexts"):
            each = (listed(f"{type(m).__name__}.{name}", getattr(m, name)) for m in models)
            setattr(self, name, tuple(dict.fromkeys(value for own in each for value in own)))

    def setup(self, source: WeightSource) -> None:
        for model in self.models:
            with isolate():
                model.setup(source)

    def check_row(self, row: Mapping[str, Any]) -> None:
        for model in self.models:
            model.check_row(row)

    def start(self, progress: Progress) -> None:
        for model in self.models:
            with isolate():
                model.start(progress)

    def score_batch(self, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
        scored = []
        for model in self.models:
            with isolate():
                # each model gets its own copy: a function may change the columns that it is given
                answer = model.score_batch([group.copy() for group in groups], trees)
            scored.append(check_rewards(model, groups, trees, answer))
        summed = [self._sum([rewards[i] for rewards in scored]) for i in range(len(groups))]
        return [_mask_dropped(*scores) for scores in zip(summed, groups, trees, strict=True)]

    def teardown(self) -> None:
        for model in self.models:
            with isolate():
                model.teardown()

    def _sum(self, rewards: list[Rewards]) -> Rewards:
        weighted = list(zip(rewards, self.weights, strict=True))
        stepped = [(r.steps, w) for r, w in weighted if r.steps is not None]
        tokens = [(r.tokens, w) for r, w in weighted if r.tokens is not None]
        own = [r.parts or {m.name: r.outcome} for r, m in zip(rewards, self.models, strict=True)]
        return Rewards(
            outcome=_sum_without_nan([r.outcome for r in rewards], self.weights),
            steps=_sum_without_nan([s for s, _ in stepped], [w for _, w in stepped]) if stepped else None,
            tokens=_sum_without_nan([t for t, _ in tokens], [w for _, w in tokens]) if tokens else None,
            parts=_name_uniquely(pair for parts in own for pair in parts.items()),
            part_weights=_name_uniquely(
                (name, w * r.part_weights.get(name, 1.0))
                for parts, (r, w) in zip(own, weighted, strict=True)
                for name in parts
            ),
            metrics=_average([r.metrics for r in rewards]),
            extras=_name_uniquely(pair for r in rewards for pair in r.extras.items()),
        )


def _mask_dropped(rewards: Rewards, group: Group, tree: ProcessTree) -> Rewards:
    """The rewards, with NaN for dropped completions and for steps that only those have."""
    applies = group.applies
    if bool(applies.all()):
        return rewards

    def mask(value: Tensor) -> Tensor:
        return torch.where(applies.view(-1, *[1] * (value.dim() - 1)), value, torch.nan)

    shared = torch.tensor([bool(applies[list(step.members)].any()) for step in tree.steps], dtype=torch.bool)
    return replace(
        rewards,
        outcome=mask(rewards.outcome),
        steps=None if rewards.steps is None else torch.where(shared, rewards.steps, torch.nan),
        tokens=None if rewards.tokens is None else mask(rewards.tokens),
        parts={name: mask(part) for name, part in rewards.parts.items()},
    )


def _sum_without_nan(values: list[Tensor], weights: list[float]) -> Tensor:
    """Weighted sum without NaN, in fp64 and then fp32; NaN if all values are."""
    stacked = torch.stack(values).double()
    weighted = stacked * torch.tensor(weights, dtype=torch.double).view(-1, *[1] * values[0].dim())
    total = torch.where(stacked.isnan().all(0), torch.nan, weighted.nansum(0)).float()
    if total.isinf().any():
        raise RewardError(f"The weighted sum of rewards is {total.tolist()}: too large for fp32. Scale them down.")
    return total


def _average(metrics: list[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over those that have it."""
    values: dict[str, list[float]] = defaultdict(list)
    for one in metrics:
        for name, value in one.items():
            values[name].append(value)
    return {name: sum(v) / len(v) for name, v in values.items()}


def _name_uniquely(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of all pairs; the second of a name is called ``name_2``, the third ``name_3``.

    >>> _name_uniquely([("a", 1), ("a", 2), ("b", 3)])
    {'a': 1, 'a_2': 2, 'b': 3}
    """
    out: dict[str, Any] = {}
    for name, value in pairs:
        unique, n = name, 1
        while unique in out:
            n += 1
            unique = f"{name}_{n}"
        out[unique] = value
    return out
