"""The end of a process in which a thread beside the run still computes.

Python ends while such a thread is within torch, say, and the thread then aborts the process: status 134, whatever the
run came to. So it is waited for a while, and then the process is ended with the run's own status.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from weakref import WeakSet

PATIENCE = 10.0
"""Seconds that threads have to end."""

_beside: WeakSet[threading.Thread] = WeakSet()
_status = 0


def note_status(status: int) -> None:
    """Say with which status the process ends."""
    global _status
    _status = status


def beside(thread: threading.Thread) -> None:
    """Wait for a daemon thread before Python ends."""
    _beside.add(thread)


@atexit.register
def _leave() -> None:
    until = time.monotonic() + PATIENCE
    for thread in list(_beside):
        thread.join(max(0.0, until - time.monotonic()))
    if any(thread.is_alive() for thread in list(_beside)):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_status or int(hasattr(sys, "last_value")))
