"""The end of a process in which something beside the run goes on.

Python ends while a daemon thread is within torch, say, and the thread then aborts the process: status 134, whatever the
run came to. For other threads and for child processes Python waits without end. So they are waited for a while, and
then the process is ended with the run's own status.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread
import os
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import active_children
from types import FrameType
from weakref import WeakSet

GRACE = 5.0
"""Seconds that threads and child processes have to end."""

POOLS = ("ThreadPoolExecutor", "asyncio_")
"""Beginnings of the names of threads that Python waits for although they may be daemons."""

PYTHON = (threading.__file__, concurrent.futures.thread.__file__)
"""Files that do not say what a thread is at."""

_beside: WeakSet[threading.Thread] = WeakSet()
_abandoned: WeakSet[threading.Thread] = WeakSet()
_status = 0


def note_status(status: int) -> None:
    """Say with which status the process ends."""
    global _status
    _status = status


def join_at_exit(thread: threading.Thread, *, abandoned: bool = False) -> None:
    """Wait up to ``GRACE`` for a daemon thread before Python ends.

    Where it goes on then, the process is ended with the run's status, unless the thread was abandoned: such a one may
    sleep for hours, and Python ends, with whatever status, without it.
    """
    (_abandoned if abandoned else _beside).add(thread)


def leave_soon() -> None:
    """End the process within ``GRACE`` from now on, without the threads and child processes that go on then.

    They are named on standard error. What is registered with ``atexit``, as loggers are, is done all the same.
    """
    over, until = threading.Event(), time.monotonic() + GRACE
    atexit.register(_end_children, until)
    atexit.register(over.set)  # the last one comes first: Python has waited for all threads then
    threading.Thread(target=_leave_threads, args=(over,), name="lgrpo-leaving", daemon=True).start()


def _leave_threads(over: threading.Event) -> None:
    if over.wait(GRACE):
        return
    main, frames = threading.main_thread(), sys._current_frames()
    threads = [t for t in threading.enumerate() if t is not main and (not t.daemon or t.name.startswith(POOLS))]
    _say([f"thread {t.name!r}{_describe_place(frames.get(t.ident or 0))}" for t in threads])
    atexit._run_exitfuncs()
    _exit()


def _describe_place(frame: FrameType | None) -> str:
    while frame is not None and frame.f_code.co_filename in PYTHON:
        frame = frame.f_back
    return "" if frame is None else f" ({frame.f_code.co_filename}, line {frame.f_lineno})"


def _end_children(until: float) -> None:
    """Python terminates children that are daemons, and waits for the others."""
    children = [child for child in active_children() if not child.daemon]
    for child in children:
        child.join(max(0.0, until - time.monotonic()))
    if left := [child for child in children if child.is_alive()]:
        _say([f"process {child.pid} ({child.name!r}), which is killed" for child in left])
        for child in left:
            child.kill()


def _say(left: list[str]) -> None:
    print(
        f"lgrpo: Left {GRACE:g} seconds after the end: {', '.join(left) or 'a thread'}. It is not waited for any "
        "longer. End what a reward model starts in its teardown(), or start it with daemon=True.",
        file=sys.stderr,
    )


@atexit.register
def _leave() -> None:
    until = time.monotonic() + GRACE
    for thread in [*_beside, *_abandoned]:
        thread.join(max(0.0, until - time.monotonic()))
    if any(thread.is_alive() for thread in list(_beside)):
        _exit()


def _exit() -> None:
    with suppress(OSError, ValueError):  # nobody reads it any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(_status or int(hasattr(sys, "last_value")))
