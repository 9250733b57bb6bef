"""The hook that every rollout passes through."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lgrpo_lightning.types import Rollout


class RolloutCallback(Callback):
    """A Lightning callback that also sees every rollout.

    The module calls ``on_rollout_end`` after credit was assigned and before the update, on every rank with
    that rank's groups. At that time ``pl_module.rollout_index == rollout.index``.
    """

    def on_rollout_end(self, trainer: Trainer, pl_module: LightningModule, rollout: Rollout) -> None:
        """Called once per rollout; override it."""


def call_rollout_callbacks(trainer: Trainer, pl_module: LightningModule, rollout: Rollout) -> None:
    """Hand ``rollout`` to every ``RolloutCallback`` of the trainer, in order."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RolloutCallback):
            callback.on_rollout_end(trainer, pl_module, rollout)


def is_dry_run(trainer: Trainer) -> bool:
    """Whether this is ``fast_dev_run``, which leaves nothing on disk."""
    settings: Any = trainer
    return bool(settings.fast_dev_run)


def count_rollouts(pl_module: LightningModule) -> int:
    """Number of rollouts of the run so far: the module's ``rollout_index``, the index of the next one."""
    module: Any = pl_module
    return int(module.rollout_index)
