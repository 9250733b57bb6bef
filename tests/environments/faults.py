"""Environments and tools that go wrong in every way, and well-behaved ones; no module here imports torch."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lgrpo_lightning import Environment

ENDS = ("exits", "is_killed", "crashes", "hangs", "holds", "forks", "garbles")
"""Ways that end a process, or make it be killed."""
ANSWERS = ("raises", "cancels", "leaves", "interrupts", "unspeakable", "huge", "bytes", "unpicklable", "torn")
"""Ways that do not."""


class UnspeakableError(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Torn:
    """Can be pickled, and not be read again."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def go_wrong(how: str) -> Any:
    """Go wrong."""
    if how == "exits":
        os._exit(3)
    if how == "is_killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "crashes":
        ctypes.string_at(0)
    if how == "hangs":
        time.sleep(100)
    if how == "holds":  # the interpreter, so that no thread runs
        re.match(r"(a+)+$", "a" * 60 + "b")
    if how == "forks":  # a copy that has the socket open stays
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], close_fds=False)
        if os.fork():
            os._exit(4)
        time.sleep(100)
    if how == "garbles":
        for descriptor in range(3, 64):
            with contextlib.suppress(OSError):
                os.write(descriptor, b"garbage" * 4)
    if how == "cancels":
        raise asyncio.CancelledError
    if how == "raises":
        raise KeyError("nothing here")
    if how == "leaves":
        raise SystemExit(3)
    if how == "interrupts":
        raise KeyboardInterrupt
    if how == "unspeakable":
        raise UnspeakableError
    return {
        "huge": "9" * 10_000_000,
        "bytes": b"\xff\xfe",
        "unpicklable": threading.Lock(),
        "torn": Torn(),
    }[how]


def faulty(how: str) -> Any:
    """Goes wrong.

    Args:
        how: In which way.
    """
    return go_wrong(how)


def process_id() -> str:
    """Tells where it runs, in as many digits everywhere, so that episodes have prompts of one length."""
    return f"{os.getpid():010}"


class Wrong(Environment):
    """Goes wrong in ``where``, as ``how`` says; the turn is "go" there and anything else elsewhere."""

    def __init__(self, where: str = "", how: str = "") -> None:
        self.where, self.how = where, how
        self.turns = 0

    def reset(self, columns: Mapping[str, Any]) -> str | None:
        self.turns = 0
        self.bad = bool(columns.get("bad", True))
        return self._here("reset", None)

    def respond(self, turns: Sequence[Any]) -> Any:
        self.turns += 1
        if self.turns == 2:
            return self._here("respond", [{"role": "user", "content": "again"}])
        return [{"role": "user", "content": "on"}] if self.turns < 3 else None

    def reward(self) -> Any:
        return self._here("reward", float(self.turns))

    def close(self) -> None:
        self._here("close", None)

    def _here(self, where: str, value: Any) -> Any:
        return go_wrong(self.how) if where == self.where and self.bad else value


class WrongObject:
    """The same, by TRL's conventions."""

    def reset(self, **columns: Any) -> None:
        self.value, self.how, self.where = 0, columns.get("how", ""), columns.get("where", "")

    def work(self, how: str) -> Any:
        """Goes wrong.

        Args:
            how: In which way.
        """
        self.value += 1
        return go_wrong(how) if how else self.value

    def get_reward(self) -> Any:
        return go_wrong(self.how) if self.where == "reward" else float(self.value)


class Adder(Environment):
    """Has tools of its own, more of them after some columns; counts, remembers, and draws from its seed."""

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self.metrics = {"adder/turns": 0.0}

    @property
    def tools(self) -> Sequence[Callable[..., Any]]:
        return (self.add, faulty) if getattr(self, "many", False) else (self.add,)

    def add(self, number: int) -> int:
        """Adds a number to what is there.

        Args:
            number: Which.
        """
        self.value += number
        return self.value

    def reset(self, columns: Mapping[str, Any]) -> str | None:
        self.many, self.value = bool(columns.get("many")), self.first + self.seed % 7
        self.metrics = {"adder/turns": 0.0}
        return f" Begin at {self.value}."

    def respond(self, turns: Sequence[Any]) -> Any:
        self.metrics["adder/turns"] += 1
        if self.metrics["adder/turns"] == 2:
            raise ValueError(f"no, it is {self.value}")
        return [{"role": "user", "content": str(self.add(len(turns)))}] if len(turns) < 5 else None

    def reward(self) -> list[float | None]:
        return [float(self.value)] * int(self.metrics["adder/turns"])


class HasALock(Adder):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class NotThere(Adder):
    """Can be pickled, and not be made anew."""

    def __setstate__(self, state: Any) -> None:
        raise OSError("no such device")


class Where(Environment):
    """Says in which process it is, and how many there are."""

    def respond(self, turns: Sequence[Any]) -> Any:
        loaded = "torch" in sys.modules
        return [{"role": "user", "content": f"{os.getpid()} {loaded}"}] if len(turns) < 2 else None


class Pickled:
    """Writes a file where its pickle is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


class SendsPickles(Environment):
    """Sends an object whose pickle runs code in the process that reads it, as an answer and past its answers."""

    def __init__(self, path: str, how: str) -> None:
        self.path, self.how = path, how

    def respond(self, turns: Sequence[Any]) -> Any:
        if self.how == "answer":
            return [{"role": "user", "content": "on", "more": Pickled(self.path)}]
        import gc

        (own,) = [s for s in gc.get_objects() if isinstance(s, socket.socket)]
        data = pickle.dumps(Pickled(self.path))
        if self.how == "socket":
            own.sendall(len(data).to_bytes(8, "big") + data)
        else:
            own.sendall((1 << 60).to_bytes(8, "big"))
        return None
