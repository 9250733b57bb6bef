"""When a run ends: whole rollouts within ``trainer.max_steps`` and ``updates.max_rollouts``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.monitoring.alarm_rules import RULES
from lgrpo_lightning.monitoring.window import Window
from lgrpo_lightning.rollouts.thread import RolloutRequest
from lgrpo_lightning.training.options import Updates
from lgrpo_lightning.types import Progress, Prompt

NOTHING_TO_LEARN = ("not_applicable", "clipped", "dead_groups")
"""Rules of ``lgrpo doctor`` whose causes leave nothing to learn from."""


def count_planned_steps(trainer: Any, updates: Updates) -> int | None:
    """Most optimizer steps of the run, those of whole rollouts; None: there is no limit."""
    most, each = trainer.max_steps, updates.steps_per_rollout
    limits = [most - most % each if updates.steps_are_sure else most, updates.max_rollouts * each]
    return min((n for n in limits if n > 0), default=None)


def stop_after_last(trainer: Any, updates: Updates, rollouts_done: int) -> None:
    """Have the run end where all its rollouts are done, or another one could go beyond ``trainer.max_steps``."""
    left = trainer.max_steps - trainer.global_step
    too_few = trainer.max_steps > 0 and left < updates.steps_per_rollout
    if too_few or 0 < updates.max_rollouts <= rollouts_done:
        # trainer.should_stop would wait for min_steps and min_epochs
        trainer.fit_loop.epoch_loop.max_steps = trainer.global_step


def check_steps(updates: Updates, without: int, metrics: Mapping[str, Any]) -> None:
    """Stop a run that makes no optimizer step any more, and so would never end.

    Args:
        without: Rollouts in a row without an optimizer step.
        metrics: Those of the last one: without a step, those before had the same weights.

    Raises:
        UserError: With the finding of ``lgrpo doctor``.
    """
    if without < updates.max_rollouts_without_step:
        return
    window = Window(1)
    for _ in range(2):  # a full window, in which nothing rises
        window.add({name: float(value) for name, value in metrics.items()})
    causes = [rule.says(window, rule.threshold) for rule in RULES if rule.name in NOTHING_TO_LEARN]
    cause = next(filter(None, causes), "no token was trained. Look at updates/masked_tokens, and into rollouts/.")
    raise UserError(
        f"{without} rollouts in a row made no optimizer step (updates.max_rollouts_without_step), so that the run "
        f"would never end: {cause}"
    )


def plan_rollouts(
    trainer: Any, updates: Updates, prompts: Sequence[Prompt], progress: Progress
) -> list[RolloutRequest]:
    """This rollout, and up to ``updates.rollouts_ahead`` after it that the run is sure to reach."""
    left = [updates.rollouts_ahead]
    if updates.max_rollouts > 0:
        left.append(updates.max_rollouts - progress.rollout - 1)
    if trainer.max_steps > 0 and updates.steps_are_sure:
        left.append((trainer.max_steps - trainer.global_step) // updates.steps_per_rollout - 1)
    coming = [(0, list(prompts)), *trainer.datamodule.preview_prompts(max(0, min(left)))]
    return [
        RolloutRequest(
            prompts=tuple(batch),
            progress=replace(progress, rollout=progress.rollout + number, epoch=trainer.current_epoch + epochs),
        )
        for number, (epochs, batch) in enumerate(coming)
    ]
