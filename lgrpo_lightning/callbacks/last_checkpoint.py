"""``last.ckpt``: always there, always whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from lgrpo_lightning.callbacks.rollout_callback import count_rollouts, is_dry_run
from lgrpo_lightning.callbacks.rollout_state import set_older_aside
from lgrpo_lightning.checkpoints.checkpoint_file import CheckpointFile, write_checkpoint
from lgrpo_lightning.checkpoints.checkpoint_io import make_error
from lgrpo_lightning.checkpoints.snapshot import LatestSnapshot
from lgrpo_lightning.distributed.interruption import Interrupted
from lgrpo_lightning.distributed.sharding import is_sharded
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.errors import require
from lgrpo_lightning.rollouts.metrics_csv import log_before_checkpoint
from lgrpo_lightning.rollouts.names import CHECKPOINTS, show_path
from lgrpo_lightning.rollouts.whole_files import DiskFullError


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, the state between two rollouts; ``--ckpt_path last`` finds it.

    Written every ``every_n_rollouts``, after the last rollout, and where an exception, Ctrl-C or SIGTERM
    ends the run. A rollout that was under way is abandoned: the checkpoint is the state before it, and
    resuming samples it again. Had its update already changed the weights, the checkpoint written before
    stays.

    It is written beside, flushed to the disk and renamed, so a kill at any moment leaves a whole checkpoint. The
    one before stays as ``last-previous.ckpt``; a damaged one is passed over. A fresh run keeps an older run's as
    ``old-<n>-last.ckpt``. Other ``ModelCheckpoint`` callbacks, such as ``monitor="val/accuracy"``, are
    independent of it.

    Args:
        every_n_rollouts: How often, in rollouts.
        save_on_exception: Hold the state at the end of every rollout (by reference, where the strategy does
            not shard), to write it when the run is cut short.
        keep_previous: Keep the checkpoint before the last one, too.
        dirpath: The folder; None is ``<default_root_dir>/checkpoints``.
    """

    def __init__(
        self,
        every_n_rollouts: int = 10,
        save_on_exception: bool = True,
        keep_previous: bool = True,
        dirpath: str | None = None,
    ) -> None:
        least = "at least 1; to write no checkpoints use trainer.enable_checkpointing: false"
        require("LastCheckpoint: ", locals(), (every_n_rollouts >= 1, "every_n_rollouts", least))
        # a ModelCheckpoint: Lightning asks only those for ckpt_path="last"
        super().__init__(dirpath=dirpath, save_top_k=0, save_last=True, save_on_exception=save_on_exception)
        self.every_n_rollouts = every_n_rollouts
        self.keep_previous = keep_previous
        self._start = 0  # rollouts done before this fit
        self._written = -1  # rollouts done in the checkpoint on disk, -1: none of this run
        self._held = LatestSnapshot()
        self._training = False  # whether this fit got as far as its first rollout

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._training = False
        self._held.clear()
        self._get_file(trainer)
        super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._held.load(checkpoint, count_rollouts(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear what an earlier run left unfinished, and set aside what it finished; a validation may come first."""
        if self._training:
            return
        self._start, self._written = count_rollouts(pl_module), -1
        self._training = True
        file, used = self._get_file(trainer), Path(trainer.ckpt_path) if trainer.ckpt_path else None
        if used is not None and used.resolve() in {p.resolve() for p in (file.last, file.previous, file.partial)}:
            self._written = self._start
        if trainer.is_global_zero and not is_dry_run(trainer):
            if cut_off := file.settle(used):
                names = ", ".join(show_path(path) for path in cut_off)
                say(trainer, f"Removed {names}, a checkpoint whose writing was cut off.")
            if self._start == 0:
                set_older_aside(trainer, [file.last, file.previous])
        trainer.strategy.barrier("LastCheckpoint.on_train_start")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if is_dry_run(trainer):
            return
        done = count_rollouts(pl_module)
        due = done % self.every_n_rollouts == 0 or _is_last_batch(trainer)
        if due or self.save_on_exception:
            self._held.take(trainer, done)
        if due:
            log_before_checkpoint(trainer)
            self._write(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what validation changed (best score, patience) into the checkpoint of this rollout."""
        if trainer.state.fn == TrainerFn.FITTING:
            self.on_train_start(trainer, pl_module)
            self._refresh(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what callbacks changed into the checkpoint, whose loops still continue this epoch."""
        self._held.leave_epoch()
        self._refresh(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last rollout's state where nothing told beforehand that it was the last."""
        done = count_rollouts(pl_module)
        if done > max(self._start, self._written) and not is_dry_run(trainer):
            if self._held.state is None or self._held.state.rollouts != done:
                self._held.take(trainer, done)
            self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the state before the rollout that was cut short, if the weights are still those."""
        if trainer.state.fn != TrainerFn.FITTING or is_dry_run(trainer):
            return
        if not self._training and isinstance(exception, Exception):
            return  # refused before it began
        together = isinstance(exception, Interrupted)  # raised on all ranks, at the same place
        held = self._held.state if self._training and not isinstance(exception, DiskFullError) else None
        if (
            held
            and held.rollouts > max(self._start, self._written)
            and held.is_whole(trainer)
            and (together or not is_sharded(trainer))
        ):
            self._write(trainer, wait=together)
        say(trainer, self._describe_end(trainer, count_rollouts(pl_module), exception))

    def _describe_end(self, trainer: Trainer, done: int, exception: BaseException) -> str:
        name = str(exception) if isinstance(exception, Interrupted) else type(exception).__name__
        rollouts = "1 whole rollout" if done == 1 else f"{done} whole rollouts"
        said = f"{name} ended the run after {rollouts}; "
        if self._written <= 0:
            return f"{said}nothing new is saved."
        last = show_path(self._get_file(trainer).last)
        return f"{said}the state after {self._written} is in {last}. Resume with --ckpt_path last."

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._held.clear()

    def state_dict(self) -> dict[str, Any]:
        """Nothing, unlike that of a ``ModelCheckpoint``: what it needs is the file itself."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass

    def _refresh(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Renew the state held, and its file."""
        done = count_rollouts(pl_module)
        if is_dry_run(trainer) or (done <= self._start and self._held.state is None):
            return
        due = self._written == done or trainer.should_stop
        if (due or self.save_on_exception) and self._held.renew(trainer, done) and due:
            self._write(trainer)

    def _write(self, trainer: Trainer, *, wait: bool = True) -> None:
        """Write the held state beside and rename it. ``wait``: all ranks are here."""
        held, self._held.state = self._held.state, None  # a failure to write is not met by writing again
        assert held is not None
        file = self._get_file(trainer)
        renewed = self._written == held.rollouts
        write_checkpoint(
            trainer,
            held.add_weights(trainer),
            file.last,
            put=lambda partial, last: file.publish(renewed=renewed),
            wait=wait,
        )
        self._written, self._held.state = held.rollouts, held
        self.last_model_path = self.best_model_path = self._last_checkpoint_saved = str(file.last)

    def _get_file(self, trainer: Trainer) -> CheckpointFile:
        """The checkpoint, in ``dirpath`` or else the run's folder."""
        if self.dirpath is None:
            self.dirpath = os.path.join(trainer.default_root_dir, CHECKPOINTS)
        return CheckpointFile(Path(self.dirpath), keep_previous=self.keep_previous)

    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        """What ``--ckpt_path last`` stands for: the newest whole checkpoint."""
        file = self._get_file(trainer)
        newest, damaged = file.find_newest(), file.list_damaged()
        for path, reason in damaged.items():
            if newest is None:
                raise make_error(path, reason)
            say(trainer, f"Passed over {show_path(path)}: {reason}. The run resumes from {show_path(newest)}.")
        if newest is None:
            say(trainer, f"--ckpt_path last: there is no checkpoint in {show_path(file.folder)} yet.")
        return {str(newest)} if newest else set()


def _is_last_batch(trainer: Trainer) -> bool:
    stopped = trainer.should_stop or (0 < trainer.max_steps <= trainer.global_step)
    return stopped or (trainer.is_last_batch and 0 < (trainer.max_epochs or -1) <= trainer.current_epoch + 1)
