"""The training process's end of one process of environments.

It sends pickles, which environments may read: they are its own. It reads lines of JSON, which runs nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from lgrpo_lightning.distributed import is_process_gone
from lgrpo_lightning.environments.isolation.serving import LARGEST, Answer
from lgrpo_lightning.environments.limits import StateLostError

MAIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from lgrpo_lightning.environments.isolation.serving import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)

LOOK = 0.25
"""Seconds after which one who waits for an answer looks whether the process is there."""


class NotAskedError(StateLostError):
    """The process was gone before the call was made."""


class InProcessError(Exception):
    """What an environment raised in its process; a subclass has the name of the original."""


class Worker:
    """A fresh interpreter, not a fork: safe beside torch's threads, and no script is run again.

    It leads a process group of its own, so that Ctrl-C does not reach it and what its tools start ends with it. Calls
    are made one at a time. One that takes too long ends the process.

    Args:
        prototypes: Pickled environments by name, all of them pickled again.
        on_end: Called once with what happened if the process ends otherwise than by ``close``.
    """

    def __init__(self, prototypes: bytes, on_end: Callable[[str], None]) -> None:
        self.on_end = on_end
        self.seats: set[int] = set()  # environments of episodes
        self.over = ""  # how it ended
        self.owner = os.getpid()
        self._one = threading.Lock()
        self.connection, theirs = socket.socketpair()
        reads, writes = os.pipe()
        self.life = os.fdopen(writes, "wb", buffering=0)  # the process ends when it is closed
        try:
            # -P: modules are found by the sys.path handed over, not by where the process starts
            command = [sys.executable, "-P", "-X", "faulthandler", "-c", MAIN, json.dumps(sys.path)]
            calls = (theirs.fileno(), reads)
            self.process = subprocess.Popen(
                [*command, *map(str, calls)], stdin=subprocess.DEVNULL, pass_fds=calls, start_new_session=True
            )
        except BaseException:
            self.connection.close()
            self.life.close()
            raise
        finally:
            theirs.close()
            os.close(reads)
        self._first = prototypes  # sent with the first request: the interpreter starts meanwhile

    def ask(self, key: int, method: str, *arguments: Any, limit: float) -> Answer:
        """What a call gives; its parts are those of ``serving.Request``.

        Args:
            limit: Seconds, from when the calls before it are done.

        Raises:
            NotAskedError: The process had ended before.
            StateLostError: It ended in the call, or was killed because the call took longer than ``limit``.
            InProcessError: What the call raised.
        """
        what = "making the environment" if method == "open" else method
        if method == "call":
            what = f"the tool {arguments[0].name!r}"
        data = pickle.dumps((key, method, arguments))
        with self._one:
            self._look()
            if self.over:
                raise NotAskedError(self.over)
            answer = self._exchange(data, limit, what)
        if answer.error:
            error: InProcessError = type(answer.error, (InProcessError,), {})(answer.text)
            if answer.trace:
                error.add_note(f"In the environment's process:\n{answer.trace}")
            raise error
        return answer

    def is_running(self) -> bool:
        """Whether the process runs, as far as one can tell."""
        if self._one.acquire(blocking=False):  # else a call is under way, which will tell
            try:
                self._look()
            finally:
                self._one.release()
        return not self.over

    def _look(self) -> None:
        if not self.over and is_process_gone(self.process.pid):
            self._end("between two calls")

    def _exchange(self, data: bytes, limit: float, what: str) -> Answer:
        until = time.monotonic() + limit
        try:
            if self._first:
                self._send(self._first, until)
                self._first = b""
            self._send(data, until)
            return Answer.read(self._read_line(until))
        except (UnicodeDecodeError, json.JSONDecodeError):  # the next answer would be this one's
            self._end(f"in {what}", why="something in it wrote into its connection to the training process")
            raise StateLostError(self.over) from None
        except (TypeError, ValueError, RecursionError) as error:
            return Answer(error="TypeError", text=f"the answer cannot be read in the training process: {error}")
        except TimeoutError:
            self._end(f"in {what}", why=f"no answer within {limit:g} seconds (timeout)")
            raise StateLostError(self.over) from None
        except (EOFError, OSError):
            self._end(f"in {what}")
            raise StateLostError(self.over) from None
        except BaseException:  # a second Ctrl-C: the answer would be taken for that of the next call
            self._end(f"in {what}", why="interrupted")
            raise

    def _send(self, data: bytes, until: float) -> None:
        self.connection.settimeout(_count_seconds_left(until))
        self.connection.sendall(pickle.dumps(data))  # the pickle of bytes tells where they end

    def _read_line(self, until: float) -> bytes:
        """What the process writes next, up to the end of a line or ``LARGEST`` bytes.

        The deadline is for the whole line. Another process may hold the other end open when this one is gone.
        """
        line, part = bytearray(), b""
        while b"\n" not in part and len(line) <= LARGEST:
            self.connection.settimeout(min(_count_seconds_left(until), LOOK))
            try:
                part = self.connection.recv(1 << 16)
            except TimeoutError:
                if is_process_gone(self.process.pid):
                    raise EOFError from None
                continue
            if not part:
                raise EOFError
            line += part
        return bytes(line)

    def _end(self, when: str, why: str = "") -> None:
        """Kill the process and say how it ended."""
        self._kill()
        self.over = why or f"the process {_describe_status(self.process.returncode)} {when}"
        self.on_end(self.over)

    def leave(self) -> None:
        """Let the process end by itself; ``close`` sees to it."""
        if self.owner == os.getpid() and not self.over:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def close(self, *, until: float) -> None:
        """End the process, and that by force when it is ``until``, by ``time.monotonic()``."""
        if self.over or self.owner != os.getpid():
            return
        self.over = "the run is over"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, until - time.monotonic()))
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.connection.close()
        self.life.close()


def _count_seconds_left(until: float) -> float:
    if (left := until - time.monotonic()) <= 0:
        raise TimeoutError
    return left


def _describe_status(status: int | None) -> str:
    if status is None:
        return "was lost"
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
