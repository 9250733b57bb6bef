"""The processes of a run stop together, and none waits for ever for another."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lgrpo_lightning.callbacks.rollout_callback import RolloutCallback, rollouts_done
from lgrpo_lightning.distributed.activity import doing
from lgrpo_lightning.distributed.alive import process_gone
from lgrpo_lightning.distributed.interruption import PEER_LOST, Interrupted, lost
from lgrpo_lightning.distributed.stop_signals import StopSignals
from lgrpo_lightning.distributed.stopping import stop_together
from lgrpo_lightning.distributed.watch import Watch
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Rollout

LAUNCHER = "_LGRPO_LAUNCHER"
"""Environment variable between the processes of a run: the one that launched the others."""
MARGIN = 10.0
"""Seconds by which this library speaks before torch's own time-out."""


class RankWatch(RolloutCallback):
    """Stops all ranks together, and names the process that the others are waiting for.

    Every process tells the others what it is doing. One that ended, was killed, has hung for
    ``timeout_minutes`` or is silent is named, with what it was doing, and the others end with status 75 after
    they have saved what they can. See docs/reliability.md.

    Args:
        timeout_minutes: Longest wait for the other ranks, in minutes. Torch's own time-out, which the strategy
            sets (30 minutes by default), has to be longer.
    """

    def __init__(self, timeout_minutes: float = 30.0) -> None:
        if not timeout_minutes > 0:
            raise UserError(f"RankWatch(timeout_minutes={timeout_minutes:g}) must be above 0.")
        self.timeout_minutes = timeout_minutes
        self._watch: Watch | None = None
        self._updates = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to watch, where there is more than one process."""
        doing("setting up")
        signals: Any = trainer._signal_connector
        if isinstance(signals, StopSignals):
            signals.at_end = lambda: self._end(trainer)
        if trainer.world_size > 1 and torch.distributed.is_initialized():
            atexit.unregister(_close_groups)
            outlive_parent()
            _take_over_children()
            store: Any = torch.distributed.distributed_c10d._get_default_store()
            self._watch = Watch(
                store.clone(),  # a connection of its own
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                limit=self._limit(trainer),
                before_exit=lambda: _kill_children(trainer),
            )
            self._watch.start()

    def _limit(self, trainer: Trainer) -> float:
        asked = 60 * self.timeout_minutes
        theirs = getattr(trainer.strategy, "_timeout", None)
        return asked if theirs is None else min(asked, max(theirs.total_seconds() - MARGIN, MARGIN))

    # ------------------------------------------------------------------------------------------ what is going on

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two rollouts: stop here if that was asked for."""
        self._updates = 0
        doing(f"at the start of rollout {rollouts_done(pl_module)}")
        stop_together(trainer)

    def on_rollout_end(self, trainer: Trainer, pl_module: LightningModule, rollout: Rollout) -> None:
        """The update comes."""
        doing(f"update 0 of rollout {rollout.index}", waits=True)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Count the updates."""
        self._updates += 1
        doing(f"update {self._updates} of rollout {rollouts_done(pl_module)}", waits=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A rollout is done."""
        doing(f"finishing rollout {rollouts_done(pl_module) - 1}", waits=True)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Stop here if that was asked for."""
        doing("validating")
        stop_together(trainer)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Stop here if that was asked for."""
        doing("testing")
        stop_together(trainer)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Stop here if that was asked for."""
        doing("predicting")
        stop_together(trainer)

    # ------------------------------------------------------------------------------------------ the end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Find out whether another rank is behind it; tell the others of one that is this rank's own."""
        if self._watch is None or isinstance(exception, Interrupted):
            return
        until = time.monotonic() + 3
        while not lost() and time.monotonic() < until:  # a broken connection shows before its reason
            time.sleep(0.1)
        if not lost():
            self._watch.end(f"{type(exception).__name__}: {str(exception)[:300]}")
            self._watch = None

    def _end(self, trainer: Trainer) -> None:
        """The trainer is done: all ranks come here, unless one was lost."""
        watch, self._watch = self._watch, None
        if watch is None:
            return
        if lost():
            watch.end(lost(), blames=True)
            return
        watch.ending = True
        trainer.strategy.barrier("RankWatch: the end")  # so that rank 0, which hosts the store, is not missed
        watch.end()
        atexit.register(_close_groups)


def _close_groups() -> None:
    """Let the threads of torch's process groups end while Python lives; cut off in a Python object, one aborts.

    Only after a run that ended well on all ranks: closing waits for collectives that are under way.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def die_with_parent() -> None:
    """Have the system end this process together with the one of the run that launches it.

    Called in both: the launching one leaves its number in the environment.
    """
    if not _launched():
        os.environ[LAUNCHER] = str(os.getpid())
        return
    launcher = int(os.environ.get(LAUNCHER, "0"))
    if launcher == os.getppid():
        parent_death_signal(signal.SIGKILL)
    if launcher and launcher != os.getppid() and process_gone(launcher):
        print("lgrpo: the process that launched this one is gone.", file=sys.stderr, flush=True)
        os._exit(PEER_LOST)


def outlive_parent() -> None:
    """From here on the watch says what happened."""
    if _launched() and os.environ.get(LAUNCHER) == str(os.getppid()):
        parent_death_signal(0)


def _launched() -> bool:
    """Whether this may be a process that Lightning's launcher started in another."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0 and "TORCHELASTIC_RUN_ID" not in os.environ


def parent_death_signal(signum: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signum, 0, 0, 0)  # PR_SET_PDEATHSIG


def _take_over_children() -> None:
    """Keep Lightning's observer, which kills every process without a word once one has ended, from doing so."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined]


def _kill_children(trainer: Trainer) -> None:
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.kill(signal.SIGKILL)
