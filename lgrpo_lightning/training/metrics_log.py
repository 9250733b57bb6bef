"""What is logged of a rollout, the same on every rank."""

from __future__ import annotations

import math
from typing import Any

import torch

from lgrpo_lightning.distributed.ranks import find_ranks, gather_data_ranks
from lgrpo_lightning.monitoring.metrics import Means, add_rollout_metrics, pass_rates
from lgrpo_lightning.policy import Policy
from lgrpo_lightning.rollouts.timing import Clock
from lgrpo_lightning.training.options import Updates, Validation
from lgrpo_lightning.training.utilization import utilization_metrics
from lgrpo_lightning.types import Rollout


class MetricsLog:
    """Puts together the metrics of each rollout.

    Args:
        validation: Says at which outcome a completion is right.
        updates: Says how often each rollout is passed over.
    """

    def __init__(self, validation: Validation, updates: Updates) -> None:
        self.success_threshold = validation.success_threshold
        self.passes = updates.iterations
        self._logged: dict[str, float] = {}

    def clear(self) -> None:
        """Nothing was logged yet."""
        self._logged = {}

    def collect(
        self,
        trainer: Any,
        policy: Policy,
        rollout: Rollout,
        means: Means,
        clock: Clock,
        step_metrics: dict[str, float],
    ) -> dict[str, float]:
        """Name → value over all ranks of a rollout whose update is done. Collective."""
        add_rollout_metrics(means, rollout.sampled, success_threshold=self.success_threshold)
        self._tell_pass_rates(trainer, rollout, means)
        used = utilization_metrics(policy, passes=self.passes, seconds=clock.seconds["train"])
        for name, value in (clock.metrics() | step_metrics | used).items():
            means.put(name, value)
        merged = Means.merge(gather_data_ranks(trainer, means.settle()))
        tokens = sum(len(completion) for group in rollout.sampled.groups for completion in group.completions)
        everywhere = float(find_ranks(trainer).sum(torch.tensor(float(tokens), device=policy.device)))
        return self._with_gaps(
            merged.values()
            | {
                "tokens_per_second": everywhere / clock.total,
                "rollout": float(rollout.index),
                "step": float(trainer.global_step),
            }
        )

    def _with_gaps(self, values: dict[str, float]) -> dict[str, float]:
        """What is no NaN, and NaN for what was logged before and is not now: Lightning would repeat the old value."""
        known = {name: value for name, value in values.items() if value == value}
        self._logged |= dict.fromkeys(known, math.nan)
        return self._logged | known

    def _tell_pass_rates(self, trainer: Any, rollout: Rollout, means: Means) -> None:
        """Tell the curriculum, where there is one, how often the prompts of a rollout were solved."""
        if (rates := getattr(trainer.datamodule, "pass_rates", None)) is None:
            return
        own = pass_rates(rollout.sampled, success_threshold=self.success_threshold)
        for theirs in gather_data_ranks(trainer, own):
            rates.add(theirs)
        for name, value in rates.compute_metrics().items():
            means.put(name, value)
