"""Messages over a socket, each behind its length, with a limit of time.

The training process sends pickles, which environments may read: they are its own. It reads JSON, which runs nothing.
"""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Callable
from typing import Any

LARGEST = 1 << 24
"""Most bytes of an answer; 16 MiB."""
LOOK = 0.25
"""Seconds after which one who waits looks whether the other process is there."""


class GarbledError(OSError):
    """What came is no message: something else wrote into the connection."""


def packed(value: Any) -> bytes:
    """``value`` as it is sent.

    Raises:
        Exception: It cannot be pickled; of many types.
    """
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def send(connection: socket.socket, data: bytes, *, until: float | None = None) -> None:
    """Send ``data``.

    Args:
        until: When to give up, by ``time.monotonic()``; None: never.

    Raises:
        TimeoutError: It is ``until``.
        OSError: The other side is gone.
    """
    for part in (len(data).to_bytes(8, "big"), data):
        connection.settimeout(_left(until))
        connection.sendall(part)


def received(
    connection: socket.socket,
    *,
    until: float | None = None,
    gone: Callable[[], bool] = lambda: False,
    most: int | None = None,
) -> bytes:
    """What the other side sends next.

    Args:
        until: When to give up, by ``time.monotonic()``; None: never.
        gone: Whether the other process is known to have ended, although its end of the socket is open.
        most: Most bytes; None: as many as the other side says.

    Raises:
        TimeoutError: It is ``until``.
        EOFError, OSError: The other side is gone.
        GarbledError: It says that more than ``most`` are to come.
    """
    length = int.from_bytes(_exactly(connection, 8, until, gone), "big")
    if most is not None and length > most:
        raise GarbledError
    return bytes(_exactly(connection, length, until, gone))


def _exactly(
    connection: socket.socket, count: int, until: float | None, gone: Callable[[], bool]
) -> bytearray:
    found = bytearray(count)
    view, taken = memoryview(found), 0
    while taken < count:
        left = _left(until)
        connection.settimeout(None if left is None else min(left, LOOK))
        try:
            got = connection.recv_into(view[taken:])
        except TimeoutError:
            if gone():
                raise EOFError from None
            continue
        if not got:
            raise EOFError
        taken += got
    return found


def _left(until: float | None) -> float | None:
    if until is None:
        return None
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
