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

from lgrpo_lightning.environments.isolation.recipe import Recipe, ServedEnvironment, ServedTools
from lgrpo_lightning.environments.tools import describe_error

LARGEST = 1 << 24
"""Most bytes of an answer; 16 MiB."""
TRACE = 10_000
"""Most characters of a traceback that are sent; its end."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A call.

    Attributes:
        key: Which environment; one that is not there is made, or taken from those that wait, by "open".
        method: Of ``ServedEnvironment`` or ``ServedTools``; or "open", with the name of a recipe; or "back", where no
            episode was begun.
        arguments: Of the method.
    """

    key: int
    method: str
    arguments: tuple[Any, ...] = ()

    @property
    def what(self) -> str:
        """What it is called in messages."""
        if self.method == "call":
            return f"the tool {self.arguments[0].name!r}"
        return "making the environment" if self.method == "open" else self.method


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a call gave.

    Attributes:
        value: What it returned.
        error: Name of the class of what it raised; empty where it returned.
        text: ``str`` of the error.
        trace: Its traceback.
        metrics: What the environment counts.
    """

    value: Any = None
    error: str = ""
    text: str = ""
    trace: str = ""
    metrics: Mapping[str, float] | None = None

    def pack(self) -> bytes:
        """As a line of JSON; arrays and their numbers as lists and numbers.

        Raises:
            TypeError, ValueError: JSON does not have it, or it is too long.
        """
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        data = json.dumps(fields, default=_convert).encode() + b"\n"
        if len(data) > LARGEST:
            raise ValueError(f"an answer of {len(data)} bytes; there may be {LARGEST}")
        return data

    @classmethod
    def read(cls, data: bytes) -> Answer:
        """What ``packed`` gave.

        Raises:
            TypeError, ValueError: It did not.
        """
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
    """The environments that live in this process.

    Args:
        recipes: Name → what its environments are made from.
    """

    def __init__(self, recipes: Mapping[str | None, Recipe]) -> None:
        self.recipes = recipes
        self.seated: dict[int, tuple[str | None, ServedEnvironment | ServedTools]] = {}
        self.waiting: dict[str | None, list[ServedEnvironment | ServedTools]] = {}

    def answer(self, data: bytes) -> bytes:
        """The answer to a request; whatever an environment does is one, unless the process ends."""
        try:
            return self._call(pickle.loads(data)).pack()
        except BaseException as error:
            trace = "".join(traceback.format_exception(error))[-TRACE:]
            return Answer(error=type(error).__name__, text=describe_error(error), trace=trace).pack()

    def _call(self, request: Request) -> Answer:
        if request.method == "open":
            (name,) = request.arguments
            waiting = self.waiting.get(name)
            self.seated[request.key] = (name, waiting.pop() if waiting else self.recipes[name].make())
            return Answer()
        if request.method in ("close", "back"):
            name, resident = self.seated.pop(request.key)
            if request.method == "close":
                resident.close()
            self.waiting.setdefault(name, []).append(resident)
            return Answer()
        _, resident = self.seated[request.key]
        value = getattr(resident, request.method)(*request.arguments)
        return Answer(value=value, metrics=resident.metrics)


def serve(calls: int, life: int) -> None:
    """Answer requests until the other end is closed.

    Args:
        calls: Descriptor of a socket.
        life: Descriptor of a pipe that nothing is written to, and that closes when the training process ends.
    """
    for descriptor in (calls, life):
        os.set_inheritable(descriptor, False)  # not for what a tool starts
    for number in (signal.SIGINT, signal.SIGTERM):  # they are the training process's to see
        signal.signal(number, _ignore)
    _end_with(life)
    connection = socket.socket(fileno=calls)
    with contextlib.suppress(EOFError, OSError), connection.makefile("rb") as requests:
        residents = Residents(pickle.loads(pickle.load(requests)))
        while True:
            connection.sendall(residents.answer(pickle.load(requests)))


def _ignore(number: int, frame: Any) -> None:
    """Nothing. An ignored signal would be ignored by processes that a tool starts, too; a handled one is not."""


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
