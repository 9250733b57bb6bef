"""What the checkpoints of chosen rollouts have in common: a whole state between two rollouts, in the run's folder."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from lgrpo_lightning.callbacks.rollout_callback import count_rollouts, is_dry_run
from lgrpo_lightning.checkpoints.checkpoint_file import write_checkpoint
from lgrpo_lightning.checkpoints.snapshot import LatestSnapshot
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.names import CHECKPOINTS, set_aside, show_path


class RolloutState(Checkpoint):
    """Keeps track of the state after the last rollout, so that it can be written then or after a validation.

    Args:
        dirpath: The folder; None is ``<default_root_dir>/checkpoints``.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self.best_model_path = ""  # what ``ckpt_path="best"`` reads
        self._began = False
        self._held = LatestSnapshot()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._began = False
        self._held.clear()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._held.load(checkpoint, count_rollouts(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if not is_dry_run(trainer):
            self._held.take(trainer, count_rollouts(pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The state held is that after the epoch's last rollout."""
        self._held.leave_epoch()

    def begin(self, trainer: Trainer) -> None:
        """Called once a fit, before anything is written and after an older run's files are set aside; override it."""

    def list_files(self, folder: Path) -> list[Path]:
        """The checkpoints that it writes and that are there; override it."""
        return []

    def get_folder(self, trainer: Trainer) -> Path:
        """Where the checkpoints are."""
        return Path(self.dirpath or os.path.join(trainer.default_root_dir, CHECKPOINTS))

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._began and not is_dry_run(trainer):
            self._began = True
            if trainer.is_global_zero and count_rollouts(pl_module) == 0 and trainer.ckpt_path is None:
                set_older_aside(trainer, self.list_files(self.get_folder(trainer)))
            trainer.strategy.barrier(f"{type(self).__name__} began")
            self.begin(trainer)

    def _write(self, trainer: Trainer, pl_module: LightningModule, path: Path) -> None:
        """Write the state between the last rollout and the next, with this callback's own as it is now. Collective."""
        self._held.renew(trainer, count_rollouts(pl_module))
        assert self._held.state is not None
        write_checkpoint(trainer, self._held.state.add_weights(trainer), path)


def is_fitting(trainer: Trainer) -> bool:
    """Whether this is a fit that leaves something on disk."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and not is_dry_run(trainer)


def check_monitored(callback: Any, names: Collection[str]) -> None:
    """Refuse a callback whose metric is not among those that validation logs."""
    if callback.monitor in names:
        return
    close = difflib.get_close_matches(callback.monitor, names, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    raise UserError(
        f"{type(callback).__name__} monitors {callback.monitor!r}, which validation does not log.{meant} It logs: "
        f"{', '.join(names) or 'nothing'}."
    )


def set_older_aside(trainer: Trainer, paths: list[Path]) -> None:
    """Keep an older run's checkpoints as ``old-<n>-…``."""
    for path in paths:
        if path.exists():
            kept = set_aside(path, "old-{n}-{stem}{suffix}")
            say(trainer, f"The checkpoint of an older run is kept as {show_path(kept)}.")
