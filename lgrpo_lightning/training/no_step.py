"""A run whose rollouts make no optimizer step would never come to its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lgrpo_lightning.analysis.rules import RULES
from lgrpo_lightning.analysis.window import Window
from lgrpo_lightning.errors import UserError

CAUSES = ("not_applicable", "clipped", "dead_groups")
"""Rules whose causes leave nothing to learn from."""


def check_steps(rollouts: int, most: int, metrics: Mapping[str, Any]) -> None:
    """Stop after too many rollouts without an optimizer step.

    Args:
        rollouts: How many there were in a row.
        most: ``updates.max_rollouts_without_step``.
        metrics: Those of the last one: without a step, those before had the same weights.

    Raises:
        UserError: With the finding of ``lgrpo doctor``.
    """
    if rollouts < most:
        return
    window = Window(1)
    for _ in range(2):  # a full window, in which nothing rises
        window.add({name: float(value) for name, value in metrics.items()})
    found = [text for rule in RULES if rule.name in CAUSES and (text := rule.says(window, rule.threshold))]
    cause = found[0] if found else "no token was trained. Look at updates/masked_tokens, and into rollouts/."
    raise UserError(
        f"{rollouts} rollouts in a row made no optimizer step (updates.max_rollouts_without_step), so that the run "
        f"would never end: {cause}"
    )
