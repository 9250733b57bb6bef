"""The callbacks and files a run gets without asking."""

from __future__ import annotations

import os
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, RichProgressBar, TQDMProgressBar

from lgrpo_lightning.callbacks.alarms import Alarms
from lgrpo_lightning.callbacks.completion_table import CompletionTable
from lgrpo_lightning.callbacks.last_checkpoint import LastCheckpoint
from lgrpo_lightning.callbacks.lock_folder import LockFolder
from lgrpo_lightning.callbacks.prediction_writer import PredictionWriter
from lgrpo_lightning.callbacks.progress import RewardProgressBar
from lgrpo_lightning.callbacks.rank_watch import RankWatch
from lgrpo_lightning.callbacks.reward_plot import RewardPlot
from lgrpo_lightning.callbacks.rollout_callback import is_dry_run
from lgrpo_lightning.callbacks.rollout_checkpoint import RolloutCheckpoint
from lgrpo_lightning.callbacks.rollout_writer import RolloutWriter
from lgrpo_lightning.callbacks.run_summary import RunSummary
from lgrpo_lightning.checkpoints.checkpoint_io import AtomicCheckpointIO
from lgrpo_lightning.distributed.interruption import PEER_LOST
from lgrpo_lightning.distributed.lightning_internals import find_stop_signals, replace_signal_handling, set_root_folder
from lgrpo_lightning.distributed.processes import end_with_launcher, keep_freed_memory
from lgrpo_lightning.distributed.stop_signals import StopSignals
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.metrics_csv import MetricsCSV
from lgrpo_lightning.rollouts.names import CHECKPOINTS


def make_default_callbacks() -> list[Callback]:
    """The callbacks of a run, in the order in which they act."""
    return [
        LockFolder(),  # before anything is written
        RankWatch(),
        RewardProgressBar(),
        RolloutWriter(),
        CompletionTable(),
        PredictionWriter(),
        RewardPlot(),
        Alarms(),
        RunSummary(),
        LastCheckpoint(),  # its file holds the state of all the others
    ]


def list_missing_callbacks(trainer: Trainer) -> list[Callback]:
    """The default callbacks of which a completed trainer has none; for ``configure_callbacks``."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    missing = [c for c in make_default_callbacks() if not any(isinstance(other, type(c)) for other in callbacks)]
    return [c for c in missing if not isinstance(c, ProgressBar | LastCheckpoint)]


def complete_trainer(trainer: Trainer) -> None:
    """Give a trainer what a run needs and it lacks, in its ``default_root_dir``.

    - ``RewardProgressBar`` and ``LastCheckpoint`` take the places of Lightning's automatic progress bar and
      checkpoint, here and not by Lightning, which would take a ``LastCheckpoint`` for the replacement of
      every ``ModelCheckpoint`` of the user. With ``enable_progress_bar=False`` there is no bar, with
      ``enable_checkpointing=False`` no checkpoint.
    - ``RolloutCheckpoint`` and ``LastCheckpoint`` come after all others, whose state they hold.
    - Paths of the trainer, its loggers and callbacks become absolute.
    - A ``ModelCheckpoint`` without ``dirpath`` writes to ``checkpoints/`` of the run.
    - ``StopSignals`` takes the place of Lightning's handling of signals, ``AtomicCheckpointIO`` that of its
      default way to write checkpoints.
    - ``MetricsCSV`` is put first among the loggers and learns the folder; not with ``logger=False``.

    Calling it again changes nothing. Called before ``fit``, it also makes ``ckpt_path="last"`` find the run's
    checkpoint, which Lightning looks for before it asks the module for callbacks.
    """
    if "://" in str(trainer.default_root_dir):
        raise UserError(
            f"trainer.default_root_dir is {trainer.default_root_dir!r}, but a run writes to a local folder, "
            "where files can be renamed: set a local path, and copy the folder away when the run is done."
        )
    _settle_paths(trainer)
    end_with_launcher(PEER_LOST)
    if isinstance(trainer.accelerator, CPUAccelerator):
        keep_freed_memory()  # here, before a process group or the model starts threads
    if find_stop_signals(trainer) is None:
        replace_signal_handling(trainer, StopSignals(trainer))
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    _complete_loggers(trainer)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    _replace_automatic(callbacks, ProgressBar, RewardProgressBar())
    if trainer.checkpoint_callbacks and not any(isinstance(c, LastCheckpoint) for c in callbacks):
        _replace_automatic(callbacks, ModelCheckpoint, LastCheckpoint())
        if not any(isinstance(c, LastCheckpoint) for c in callbacks):
            callbacks.append(LastCheckpoint())
    callbacks.sort(key=lambda c: 2 if isinstance(c, LastCheckpoint) else int(isinstance(c, RolloutCheckpoint)))
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = os.path.join(trainer.default_root_dir, CHECKPOINTS)


def _settle_paths(trainer: Trainer) -> None:
    """Make the folders of a run absolute: where it writes does not change with the working directory."""
    set_root_folder(trainer, os.path.abspath(os.path.expanduser(trainer.default_root_dir)))
    owners: list[tuple[Any, tuple[str, ...]]] = [
        (logger, ("dir", "_root_dir", "_save_dir")) for logger in trainer.loggers
    ]
    owners += [(callback, ("dirpath", "path")) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    for owner, names in owners:
        for name in names:
            path = vars(owner).get(name)
            if isinstance(path, str | os.PathLike) and "://" not in str(path):
                setattr(owner, name, os.path.abspath(os.path.expanduser(path)))


def _complete_loggers(trainer: Trainer) -> None:
    if is_dry_run(trainer) or not trainer.loggers:
        return
    if not any(isinstance(logger, MetricsCSV) for logger in trainer.loggers):
        trainer.loggers = [MetricsCSV(), *trainer.loggers]
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.attach(trainer)


def _replace_automatic(callbacks: list[Callback], kind: type, ours: Callback) -> None:
    """Put ``ours`` in the place of the callback of this kind that Lightning adds by itself, if it did."""
    for i, callback in enumerate(callbacks):
        if isinstance(callback, kind) and _is_automatic(callback):
            callbacks[i] = ours


def _is_automatic(callback: Callback) -> bool:
    """Whether Lightning added it: a class that it adds, with no argument given."""
    if type(callback) not in (ModelCheckpoint, RichProgressBar, TQDMProgressBar):
        return False
    return bool(vars(callback) == vars(type(callback)()))
