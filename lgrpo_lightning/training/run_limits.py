"""When a run ends: whole rollouts within ``trainer.max_steps`` and ``max_rollouts``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lgrpo_lightning.training.options import Updates
from lgrpo_lightning.training.rollout_thread import RolloutRequest
from lgrpo_lightning.types import Progress, Prompt


@dataclass(frozen=True, kw_only=True)
class RunLimits:
    """What bounds a run.

    Attributes:
        max_rollouts: Stop after so many; -1: no limit.
        updates: Options, which say how many optimizer steps a rollout makes.
    """

    max_rollouts: int
    updates: Updates

    def planned_steps(self, trainer: Any) -> int | None:
        """Most optimizer steps of the run where they are known: those of whole rollouts."""
        most, each = trainer.max_steps, self.updates.steps_per_rollout
        limits = [most - most % each if self.updates.steps_are_sure else most, self.max_rollouts * each]
        return min((n for n in limits if n > 0), default=None)

    def stop_after_last(self, trainer: Any, rollouts_done: int) -> None:
        """Have the run end where all its rollouts are done, or another one could go beyond ``trainer.max_steps``."""
        left = trainer.max_steps - trainer.global_step
        too_few = trainer.max_steps > 0 and left < self.updates.steps_per_rollout
        if too_few or 0 < self.max_rollouts <= rollouts_done:
            # trainer.should_stop would wait for min_steps and min_epochs
            trainer.fit_loop.epoch_loop.max_steps = trainer.global_step

    def upcoming(
        self, trainer: Any, prompts: Sequence[Prompt], progress: Progress, ahead: int
    ) -> list[RolloutRequest]:
        """This rollout, and up to ``ahead`` after it that the run is sure to reach."""
        if not ahead:
            return [RolloutRequest(prompts=tuple(prompts), progress=progress)]
        left = [ahead]
        if self.max_rollouts > 0:
            left.append(self.max_rollouts - progress.rollout - 1)
        if trainer.max_steps > 0 and self.updates.steps_are_sure:
            steps = trainer.max_steps - trainer.global_step
            left.append(steps // self.updates.steps_per_rollout - 1)
        coming = [(0, list(prompts)), *trainer.datamodule.upcoming_prompts(max(0, min(left)))]
        return [
            RolloutRequest(
                prompts=tuple(batch),
                progress=replace(
                    progress, rollout=progress.rollout + number, epoch=trainer.current_epoch + epochs
                ),
            )
            for number, (epochs, batch) in enumerate(coming)
        ]
