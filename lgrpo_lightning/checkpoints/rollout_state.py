"""What the checkpoints of chosen rollouts have in common: a whole state between two rollouts, in the run's folder."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from lgrpo_lightning.checkpoints.checkpoint_file import put_in_place
from lgrpo_lightning.processes.activity import doing
from lgrpo_lightning.run_folder.names import CHECKPOINTS, set_aside, shown
from lgrpo_lightning.run_folder.whole_files import explained_if_full
from lgrpo_lightning.trainer.rollout_callback import dry_run, rollouts_done
from lgrpo_lightning.trainer.terminal import say


class RolloutState(Checkpoint):
    """Keeps track of the state after the last rollout, so that it can be written then or after a validation.

    Args:
        dirpath: The folder; None is ``<default_root_dir>/checkpoints``.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self.best_model_path = ""  # what ``ckpt_path="best"`` reads
        self._began = False
        self._in_epoch = False  # past an epoch's end the loops' state no longer continues it exactly
        self._place: dict[str, Any] = {}  # loops and prompts after the last rollout

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing was done yet."""
        self._began, self._in_epoch, self._place = False, False, {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Get ready, unless a validation before came first."""
        self._begin(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A rollout is done."""
        self._take_place(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on the place in the epoch is the one taken after its last rollout."""
        self._in_epoch = False

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called once a fit, before anything is written; override it."""

    def folder(self, trainer: Trainer) -> Path:
        """Where the checkpoints are."""
        return Path(self.dirpath or os.path.join(trainer.default_root_dir, CHECKPOINTS))

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._began and not dry_run(trainer):
            self._began = True
            self.begin(trainer, pl_module)
            trainer.strategy.barrier(f"{type(self).__name__} began")

    def _take_place(self, trainer: Any) -> None:
        """Remember where the loops are: a rollout, and what follows it, is done."""
        self._in_epoch = True
        state = {
            "loops": trainer._checkpoint_connector._get_loops_state_dict(),
            "epoch": trainer.current_epoch,
        }
        if trainer.datamodule is not None:
            state[type(trainer.datamodule).__qualname__] = trainer.datamodule.state_dict()
        self._place = deepcopy(state)

    def _write(self, trainer: Any, path: Path) -> None:
        """Write the state between the last rollout and the next, beside and renamed. Collective."""
        doing(f"writing {path.name}", waits=True, keeps=True)
        partial = path.with_name(f".{path.name}.part")
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if not self._in_epoch:
            state |= self._place
        with explained_if_full(path):
            trainer.strategy.save_checkpoint(state, str(partial))
        doing(f"waiting for {path.name}", waits=True)
        trainer.strategy.barrier(f"{path.name} written")
        if trainer.is_global_zero:
            put_in_place(partial, path)
        trainer.strategy.barrier(f"{path.name} renamed")
        doing("going on")


def fitting(trainer: Trainer) -> bool:
    """Whether this is a fit that leaves something on disk."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and not dry_run(trainer)


def set_older_aside(trainer: Trainer, pl_module: LightningModule, paths: list[Path]) -> None:
    """Keep an older run's checkpoints as ``old-<n>-…``, where this run is a new one."""
    resumed = rollouts_done(pl_module) > 0 or trainer.ckpt_path is not None
    if resumed or not trainer.is_global_zero:
        return
    for path in paths:
        if path.exists():
            kept = set_aside(path, "old-{n}-{stem}{suffix}")
            say(trainer, f"The checkpoint of an older run is kept as {shown(kept)}.")


def in_writing_order(callbacks: list[Callback], last: tuple[type, ...]) -> list[Callback]:
    """``callbacks`` with those of the classes ``last`` at the end, in that order: they hold the others' state."""
    kinds = [next((i + 1 for i, kind in enumerate(last) if isinstance(c, kind)), 0) for c in callbacks]
    return [c for _, _, c in sorted(zip(kinds, range(len(callbacks)), callbacks, strict=True))]
