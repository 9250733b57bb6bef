"""What is logged of a rollout, the same on every rank."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lgrpo_lightning.distributed.ranks import find_ranks, gather_data_ranks
from lgrpo_lightning.monitoring.metrics import Means, add_rollout_metrics, pass_rates
from lgrpo_lightning.policy import Policy
from lgrpo_lightning.policy.choice import count_linear_parameters
from lgrpo_lightning.policy.sharded_weights import is_divided
from lgrpo_lightning.training.hardware import find_gpu
from lgrpo_lightning.training.options import Updates, Validation
from lgrpo_lightning.types import Rollout


class Clock:
    """Seconds by stage; waits for the GPU, so that each stage pays for its own work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.started = time.perf_counter()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time inside to ``stage``."""
        start = _now()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + _now() - start

    def metrics(self) -> dict[str, float]:
        """``time/<stage>`` for every stage, and ``time/step`` for all since the clock was made."""
        return {f"time/{stage}": seconds for stage, seconds in self.seconds.items()} | {"time/step": self.total}

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return _now() - self.started


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


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
        rollout = rollout.sampled
        add_rollout_metrics(means, rollout, success_threshold=self.success_threshold)
        self._tell_pass_rates(trainer, rollout, means)
        used = compute_utilization(policy, passes=self.passes, seconds=clock.seconds["train"])
        for name, value in (clock.metrics() | step_metrics | used).items():
            means.put(name, value)
        values = Means.merge(gather_data_ranks(trainer, means.settle())).values()
        tokens = sum(len(completion) for group in rollout.groups for completion in group.completions)
        everywhere = float(find_ranks(trainer).sum(torch.tensor(float(tokens), device=policy.device)))
        values |= {
            "tokens_per_second": everywhere / clock.total,
            "rollout": float(rollout.index),
            "step": float(trainer.global_step),
        }
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        # NaN for what was logged before and is not now: Lightning would repeat the old value
        self._logged |= dict.fromkeys(known, math.nan)
        return self._logged | known

    def _tell_pass_rates(self, trainer: Any, rollout: Rollout, means: Means) -> None:
        """Tell the curriculum, where there is one, how often the prompts of a rollout were solved."""
        if (rates := getattr(trainer.datamodule, "pass_rates", None)) is None:
            return
        own = pass_rates(rollout, success_threshold=self.success_threshold)
        for theirs in gather_data_ranks(trainer, own):
            rates.add(theirs)
        for name, value in rates.compute_metrics().items():
            means.put(name, value)


def compute_utilization(policy: Policy, *, passes: int, seconds: float) -> dict[str, float]:
    """``mfu``, the share of this GPU's bf16 peak that an update makes up; nothing on a CPU or an unknown GPU.

    6 FLOPs per parameter of linear layers, head included, and token for a forward and backward pass (Kaplan et al.
    2020).

    Args:
        passes: Over the rollout.
        seconds: Of the update.
    """
    sheet = find_gpu(torch.cuda.get_device_name(policy.device)) if policy.device.type == "cuda" else None
    if sheet is None or policy.choice is None:
        return {}
    parameters = count_linear_parameters(policy.model)
    if (division := policy.division) is not None:
        divided = sum(p.numel() for p in policy.parameters() if p.dim() > 1 and is_divided(p))
        parameters -= divided - divided // division.mesh.size()
    return {"mfu": 6 * parameters * policy.choice.computed * passes / seconds / (sheet.bf16 * 1e12)}
