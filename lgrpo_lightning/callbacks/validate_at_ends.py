"""Validation before the first rollout and after the last one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lgrpo_lightning.callbacks.rollout_callback import count_rollouts
from lgrpo_lightning.callbacks.rollout_state import check_monitored
from lgrpo_lightning.distributed.lightning_internals import (
    insert_validation,
    run_hooks_of_a_complete_fit,
    validation_follows,
)


class ValidateAtEnds(Callback):
    """Runs the validation loop at the start and at the end of a fit.

    In between, ``trainer.val_check_interval`` counts rollouts (with ``check_val_every_n_epoch: null`` across
    epochs). A resumed run is not validated at its start again, a run not at its end if it just was. Where a
    checkpoint was written before the validation that its rollout was due for, the resumed run begins with that.
    Each is logged with the epoch of the last rollout.

    Args:
        at_start: Validate before the first rollout.
        at_end: Validate after the last one.
    """

    def __init__(self, *, at_start: bool = True, at_end: bool = True) -> None:
        self.at_start = at_start
        self.at_end = at_end
        self.validated_at = -1
        self.due = False
        self.epoch: int | None = None  # that of the last rollout

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have a resumed run that is complete come to its end, too."""
        run_hooks_of_a_complete_fit(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.due:
            validate_now(trainer, self.epoch)
        elif self.at_start and count_rollouts(pl_module) == 0:
            with _set_aside(trainer, pl_module):
                validate_now(trainer, self.epoch)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self.epoch = trainer.current_epoch
        self.due = validation_follows(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated_at, self.due = count_rollouts(pl_module), False

    def state_dict(self) -> dict[str, Any]:
        return {"due": self.due, "validated_at": self.validated_at, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.due, self.validated_at = state_dict["due"], state_dict["validated_at"]
        self.epoch = state_dict["epoch"]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.at_end and self.validated_at != count_rollouts(pl_module):
            validate_now(trainer, self.epoch)


@contextmanager
def _set_aside(trainer: Any, pl_module: Any) -> Iterator[None]:
    """Inside, callbacks that monitor what only training logs are not called: nothing is logged yet."""
    callbacks, known = trainer.callbacks, getattr(pl_module, "validation_metrics", ())
    logged, called = {*known, *trainer.callback_metrics}, []
    for callback in callbacks:
        name = str(getattr(callback, "monitor", None) or "")
        if not known or not name or name in logged:
            called.append(callback)
        elif name.startswith("val"):
            check_monitored(callback, known)
    trainer.callbacks = called
    try:
        yield
    finally:
        trainer.callbacks = callbacks


def validate_now(trainer: Any, epoch: int | None) -> None:
    """Run the validation loop inside a fit, as Lightning itself does between batches.

    Args:
        epoch: What it is logged with, where not the Trainer's: a resumed run may be in the next one already.
    """
    if not trainer.enable_validation:
        return
    trainer.fit_loop.epoch_loop.val_loop.restarting = False  # else it skips what a run before had validated
    progress = trainer.fit_loop.epoch_progress.current
    completed = progress.completed
    with insert_validation(trainer):
        progress.completed = completed if epoch is None else epoch  # Lightning logs this as the epoch
        trainer.fit_loop.epoch_loop.val_loop.run()
        progress.completed = completed
