"""The optimizer steps of a rollout, as ``GRPOModule.train_on`` makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lgrpo_lightning.monitoring.metrics import Means
from lgrpo_lightning.training.update import Update
from lgrpo_lightning.types import TrainBatch


def run_update(
    update: Update,
    batch: TrainBatch,
    parts: Sequence[Sequence[int]],
    means: Means,
    step: Callable[[], None] = lambda: None,
) -> None:
    """Make ``iterations`` steps for each of the ``parts``, the rows of one step."""
    fixed = update.prepare(batch, parts, means)
    for _ in range(update.updates.iterations):
        for rows in parts:
            pending = update.accumulate(batch, list(rows), fixed, means)
            if pending is not None:
                update.count_step(pending, means)
                step()
