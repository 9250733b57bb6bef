"""What this process is doing, for the other processes of the run that wait for it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, kw_only=True)
class Activity:
    """``what`` a process is doing ("sampling rollout 5"), and ``since`` when (``time.monotonic()``).

    ``waits``: it cannot go on without the others. ``saves``: it writes a checkpoint.
    """

    what: str
    waits: bool = False
    saves: bool = False
    since: float = field(default_factory=time.monotonic)


_now = Activity(what="starting")


def note_activity(what: str, *, waits: bool = False, saves: bool = False) -> None:
    """Say what comes now. ``waits``: it takes all ranks, so that one can hang in it for want of another."""
    global _now
    _now = Activity(what=what, waits=waits, saves=saves)


def note_progress() -> None:
    """Say that a part of it is done: only what comes without any is waiting."""
    global _now
    _now = replace(_now, since=time.monotonic())


def read_activity() -> Activity:
    """What this process is doing."""
    return _now
