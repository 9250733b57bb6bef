"""Rollouts that are being drawn ahead end with the run."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class CloseQueue(Callback):
    """Closes the module's rollout queue when training ends, before the last validation, and where a run fails."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nobody trains on these rollouts; the sampler is free on all ranks afterwards."""
        module: Any = pl_module
        if module.updates.rollouts_ahead:
            module.queue.close()
            trainer.strategy.barrier("CloseQueue.on_train_end")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """They are not waited for: the state is saved first."""
        module: Any = pl_module
        module.queue.cancel()
