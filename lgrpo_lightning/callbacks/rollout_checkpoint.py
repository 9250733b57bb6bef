"""A checkpoint every so many rollouts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lgrpo_lightning.callbacks.rollout_callback import count_rollouts, is_dry_run
from lgrpo_lightning.callbacks.rollout_state import RolloutState, is_fitting
from lgrpo_lightning.errors import require
from lgrpo_lightning.rollouts.metrics_csv import log_before_checkpoint

FILE = re.compile(r"rollout-(\d+)\.ckpt")


class RolloutCheckpoint(RolloutState):
    """Writes ``rollout-<n>.ckpt`` after every so many rollouts, however many optimizer steps they take.

    A run resumes exactly from each. Where a validation follows the rollout, it is written again with what that
    changed. ``last.ckpt`` is written beside it.

    Args:
        every_n_rollouts: How often.
        keep: How many are kept, the newest; -1 keeps all.
        dirpath: The folder; null is ``<default_root_dir>/checkpoints``.
    """

    def __init__(self, every_n_rollouts: int = 100, keep: int = -1, dirpath: str | None = None) -> None:
        super().__init__(dirpath)
        require(
            "RolloutCheckpoint: ",
            locals(),
            (every_n_rollouts >= 1, "every_n_rollouts", "at least 1"),
            (keep >= 1 or keep == -1, "keep", "at least 1, or -1 for all"),
        )
        self.every_n_rollouts, self.keep = every_n_rollouts, keep
        self._written = -1  # rollouts done in the one written last

    def begin(self, trainer: Trainer) -> None:
        self._written = -1

    def list_files(self, folder: Path) -> list[Path]:
        return sorted((p for p in folder.glob("rollout-*.ckpt") if FILE.fullmatch(p.name)), key=_read_number)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        done = count_rollouts(pl_module)
        if done % self.every_n_rollouts == 0 and not is_dry_run(trainer):
            self._written = done
            log_before_checkpoint(trainer)
            self._write_and_prune(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what validation changed (best score, patience) into the checkpoint of this rollout."""
        if not is_fitting(trainer):
            return
        done = count_rollouts(pl_module)
        self._held.renew(trainer, done)
        if self._written == done:
            self._write_and_prune(trainer, pl_module)

    def _write_and_prune(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = self.get_folder(trainer)
        path = folder / f"rollout-{self._written:06d}.ckpt"
        self._write(trainer, pl_module, path)
        self.best_model_path = str(path)
        if trainer.is_global_zero and self.keep > 0:
            there = [file for file in self.list_files(folder) if _read_number(file) <= self._written]
            for old in there[: -self.keep]:
                trainer.strategy.remove_checkpoint(str(old))


def _read_number(path: Path) -> int:
    """Rollouts done in a checkpoint, by its name."""
    return int(path.stem.rpartition("-")[2])
