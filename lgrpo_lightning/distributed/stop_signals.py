"""Signals that ask for a stop: in the place of Lightning's handling."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer

from lgrpo_lightning.distributed.interruption import begin, forget_stop, read_stop_signal, request_stop
from lgrpo_lightning.distributed.lightning_internals import find_cluster_environment
from lgrpo_lightning.distributed.slurm import requeue

ALSO = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
"""A connection that was lost, Ctrl-\\, and what schedulers send before the time is up: each would end the process."""
TWICE = 0.3
"""Seconds within which a second Ctrl-C is taken for the same one."""


class StopSignals:
    """Notes that a stop was asked for; the run stops where its state can be saved.

    Lightning's own handlers broadcast in the handler, where other ranks may be anywhere, end a run with status
    0, and under SLURM save a checkpoint in the middle of a rollout. The handlers are installed while a trainer
    runs, in the main thread only, and put back afterwards. A handler for SIGTERM that was there is called, too.
    A second Ctrl-C ends the process at once.
    """

    received_sigterm = False  # Lightning's loops would end the run where they see it

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.at_end: Callable[[], None] | None = None  # called when the run is over, however it ended
        self._before: dict[int, Any] = {}
        self._interrupted = -math.inf  # when this process was: a stop may also come from another one
        begin()

    @property
    def requeue_signal(self) -> int:
        """SLURM's signal to stop and be started again; 0 where the run is not under SLURM's requeueing."""
        environment = find_cluster_environment(self.trainer)
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            return int(environment.requeue_signal or 0)
        return 0

    def register_signal_handlers(self) -> None:
        """Install the handlers."""
        if threading.current_thread() is not threading.main_thread():
            return
        free = [s for s in ALSO if signal.getsignal(s) == signal.SIG_DFL]  # nohup ignores SIGHUP, say
        for signum in {*map(int, (signal.SIGTERM, signal.SIGINT, *free)), self.requeue_signal} - {0}:
            self._before[signum] = signal.signal(signum, self._note)

    def teardown(self) -> None:
        """Put the handlers back; requeue the job if that was asked for."""
        # before the handlers go: a signal that comes meanwhile must not end the process half-way
        if self.at_end is not None:
            self.at_end()
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._before = {}
        if self.trainer.interrupted and read_stop_signal() and read_stop_signal() == self.requeue_signal:
            requeue(self.trainer)
        forget_stop()

    def _note(self, signum: int, frame: Any) -> None:
        name = signal.Signals(signum).name
        if signum == signal.SIGINT:
            earlier, self._interrupted = self._interrupted, time.monotonic()
            if self._interrupted - earlier < TWICE:
                return
            if earlier > -math.inf:
                self._stop_at_once()
        if not read_stop_signal():
            again = "; once more stops at once" if signum == signal.SIGINT else ""
            _write(f"{name}: stopping; sampling is abandoned, an update is finished{again}.\n")
        request_stop(signum)
        before = self._before.get(signum)
        if callable(before) and before is not signal.default_int_handler:
            before(signum, frame)

    def _stop_at_once(self) -> None:
        """End this process and those it launched, as they are."""
        if (launcher := self.trainer.strategy.launcher) is not None:
            launcher.kill(signal.SIGKILL)
        _write("SIGINT again: stopped at once; --ckpt_path last resumes from the checkpoint written before.\n")
        os._exit(128 + signal.SIGINT)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_before": {}}


def _write(text: str) -> None:
    """To standard error, past Python's buffers, which may be in use when a signal comes."""
    with suppress(OSError):  # the terminal may be gone
        os.write(2, text.encode())
