"""Rollouts in flight end with the run."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class EndFlights(Callback):
    """Ends what is in flight when training does, before the last validation, and gives it up where a run fails."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nobody trains on it; the sampler is free on all ranks afterwards."""
        module: Any = pl_module
        if module.rollouts_ahead:
            module.end_flights()
            trainer.strategy.barrier("EndFlights.on_train_end")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """It is not waited for: the state is saved first."""
        module: Any = pl_module
        module.cancel_flights()
