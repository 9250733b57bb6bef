"""What runs in a process of environments: it makes them, calls them, and ends with the training process."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.environments.isolation.tool_references import refer_to_tools
from lgrpo_lightning.environments.tool_environment import ToolEnvironment
from lgrpo_lightning.environments.tools import describe_error

LARGEST = 1 << 24
"""Most bytes of an answer; 16 MiB."""
TRACE = 10_000
"""Most characters of a traceback that are sent; its end."""

Request = tuple[int, str, tuple[Any, ...]]
"""(which environment, method, arguments). Besides its methods there are "open", with a name of the prototypes, "call"
of a tool, and "back", where no episode was begun."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a call gave: a value, or the class name of an error with its text and traceback; and the metrics after it.

    It is sent as a line of JSON, which runs nothing in the training process that reads it.
    """

    value: Any = None
    error: str = ""
    text: str = ""
    trace: str = ""
    metrics: Mapping[str, float] | None = None

    def pack(self) -> bytes:
        """The line; arrays and their numbers become lists and numbers. An error where JSON does not have the value."""
        data = json.dumps(vars(self), default=_convert).encode() + b"\n"
        if len(data) > LARGEST:
            raise ValueError(f"an answer of {len(data)} bytes; there may be {LARGEST}")
        return data

    @classmethod
    def read(cls, data: bytes) -> Answer:
        """What ``pack`` gave; a ``TypeError`` or ``ValueError`` where it did not give it."""
        answer = cls(**json.loads(data))
        texts = all(isinstance(v, str) for v in (answer.error, answer.text, answer.trace))
        if not texts or not isinstance(answer.metrics, dict | None):
            raise TypeError("it has not the form of an answer")
        return answer


def _convert(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # of numpy, torch
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON, as which answers are sent to the training process")


class Residents:
    """The environments that live in this process, made from pickled ones by name."""

    def __init__(self, prototypes: Mapping[str | None, bytes]) -> None:
        self.prototypes = prototypes
        self.seated: dict[int, tuple[str | None, Environment]] = {}
        self.waiting: dict[str | None, list[Environment]] = {}

    def answer(self, request: bytes) -> bytes:
        """The answer to a pickled request; whatever an environment does is one, unless the process ends."""
        try:
            return self._call(*pickle.loads(request)).pack()
        except BaseException as error:
            trace = "".join(traceback.format_exception(error))[-TRACE:]
            return Answer(error=type(error).__name__, text=describe_error(error), trace=trace).pack()

    def _call(self, key: int, method: str, arguments: tuple[Any, ...]) -> Answer:
        if method == "open":
            (name,) = arguments
            waiting = self.waiting.get(name)
            self.seated[key] = (name, waiting.pop() if waiting else pickle.loads(self.prototypes[name]))
            return Answer()
        if method in ("close", "back"):
            name, resident = self.seated.pop(key)
            if method == "close":
                resident.close()
            self.waiting.setdefault(name, []).append(resident)
            return Answer()
        _, resident = self.seated[key]
        if method == "reset":
            value: Any = _reset(resident, *arguments)
        elif method == "call":
            value = resident.run(*arguments)  # type: ignore[attr-defined]
        else:
            value = getattr(resident, method)(*arguments)
        return Answer(value=value, metrics=dict(getattr(resident, "metrics", {})))


def _reset(resident: Environment, seed: int, columns: Mapping[str, Any]) -> tuple[str | None, list[dict[str, Any]]]:
    """(What the environment says first, its tools)."""
    resident.seed = seed
    observation = resident.reset(columns)
    # the tools of a ToolEnvironment are known from its prototype
    return observation, [] if isinstance(resident, ToolEnvironment) else refer_to_tools(resident.tools)


def serve(calls: int, life: int) -> None:
    """Answer requests until the other end is closed.

    Args:
        calls: Descriptor of a socket.
        life: Descriptor of a pipe that nothing is written to, and that closes when the training process ends.
    """
    for descriptor in (calls, life):
        os.set_inheritable(descriptor, False)  # not for what a tool starts
    for number in (signal.SIGINT, signal.SIGTERM):
        # the training process's to see; an ignored signal would be ignored by what a tool starts, too
        signal.signal(number, lambda *_: None)
    _end_with(life)
    connection = socket.socket(fileno=calls)
    with contextlib.suppress(EOFError, OSError), connection.makefile("rb") as requests:
        residents = Residents(pickle.loads(pickle.load(requests)))
        while True:
            connection.sendall(residents.answer(pickle.load(requests)))


def _end_with(life: int) -> None:
    """Have this process and those it starts killed once ``life`` closes, even in the middle of a call.

    Where the system can (Linux), it does so itself; else a thread does, which code that never lets go of the
    interpreter keeps from it.
    """
    import fcntl

    if hasattr(fcntl, "F_SETSIG"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(life, 1)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait, name="end with the run", daemon=True).start()
