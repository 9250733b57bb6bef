"""Stopping a run in good order: what asks for it, who notices, and with which status the process ends.

A signal only leaves a mark here. Samplers look for it while they draw (``abandon_if_stopping``), and the module
between the stages of a rollout, where all ranks agree to stop together.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from threading import Event
from typing import TypeVar

from lgrpo_lightning.distributed.leaving import note_status

Result = TypeVar("Result")

PEER_LOST = 75
"""Exit status where another process of the run was lost or kept this one waiting (EX_TEMPFAIL: try again)."""

_requested = 0  # the signal that asked for the stop; 0: none
_lost = ""  # why the run cannot go on: which other process is gone
_beside = ContextVar[Event | None]("beside", default=None)  # on a thread beside the run: set when it is cancelled
_in_step = False  # other processes compute with this one, token by token


class Interrupted(SystemExit):
    """The run ends in good order; the exit status is 128 + the signal that asked for it.

    >>> Interrupted(15).code, str(Interrupted(15))
    (143, 'SIGTERM')
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum
        note_status(128 + signum)

    def __str__(self) -> str:
        return signal.Signals(self.signum).name


class AbandonedError(Exception):
    """Sampling was given up because the run is about to stop."""


class PeerLostError(RuntimeError):
    """Another process of the run is gone, or this one waited too long for it."""


def request_stop(signum: int) -> None:
    """Ask this process to stop where the next rollout, or what is under way of it, can be abandoned."""
    global _requested
    _requested = _requested or signum


def read_stop_signal() -> int:
    """The signal that asked for a stop, or 0."""
    return _requested


def forget_stop() -> None:
    """The run is over: who asked for its stop does not matter any more."""
    global _requested
    _requested = 0


def begin() -> None:
    """A new run: nobody asked for a stop, and no process is lost."""
    global _requested, _lost
    _requested, _lost = 0, ""
    note_status(0)


def note_lost_peer(why: str) -> None:
    """Note that the run cannot go on, for want of another process."""
    global _lost
    _lost = _lost or why


def explain_lost_peer() -> str:
    """Why the run cannot go on, or nothing."""
    return _lost


def check_peers() -> None:
    """Before anything that needs all processes: an error where one is gone."""
    if _lost:
        raise PeerLostError(_lost)


def abandon_if_stopping() -> None:
    """For samplers, between tokens or while they wait: cheap, and without a word to other ranks.

    Raises:
        AbandonedError: A stop was asked for, or the run cannot go on. The module takes it from there.
    """
    cancelled = _beside.get()
    if cancelled is not None and cancelled.is_set():
        raise AbandonedError
    if (_requested or _lost) and not _in_step:
        raise AbandonedError


@contextmanager
def run_aside(cancelled: Event) -> Iterator[None]:
    """Call components inside, on a thread of their own, while the run goes on in another one; until ``cancelled``."""
    token = _beside.set(cancelled)
    try:
        yield
    finally:
        _beside.reset(token)


def is_aside() -> bool:
    """Whether this thread calls components while the run goes on in another one: it leaves the process as it is."""
    return _beside.get() is not None


def carry_context(call: Callable[..., Result]) -> Callable[..., Result]:
    """``call`` for the threads of a pool, where ``abandon_if_stopping`` looks at what it looks at here."""
    context = copy_context()
    return lambda *arguments: context.copy().run(call, *arguments)


@contextmanager
def forbid_abandoning() -> Iterator[None]:
    """Inside, sampling is not abandoned: other processes would wait for this one's part of the next token."""
    global _in_step
    _in_step = True
    try:
        yield
    finally:
        _in_step = False
