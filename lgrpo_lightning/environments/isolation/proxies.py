"""Environments as the training process sees them when they run in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.environments.isolation.tool_references import find_tool
from lgrpo_lightning.environments.isolation.worker import NotAskedError
from lgrpo_lightning.environments.isolation.workers import Seat, Workers
from lgrpo_lightning.environments.limits import StateLostError, limit_answer, name_class
from lgrpo_lightning.environments.tool_call import ToolCall
from lgrpo_lightning.environments.tool_environment import ToolEnvironment
from lgrpo_lightning.types import Message

TRIES = 3
"""How often a function is called whose process is found to have ended before the call."""


class ProcessEnvironment(Environment):
    """Passes its calls on to an ``Environment`` in a process, from ``reset`` to ``close``.

    Args:
        name: Of the prototype in the processes.
        prototype: The environment that was configured; it is not used but for what it is called, and its tools.
        timeout: Seconds that a call may take.
    """

    # the process is killed when a call takes too long: no thread has to watch it
    keeps_time = True

    def __init__(self, workers: Workers, name: str | None, prototype: Any, timeout: float) -> None:
        self.workers, self.name, self.prototype, self.timeout = workers, name, prototype, timeout
        self.class_name = name_class(prototype)
        self.seat: Seat | None = None
        self._tools: Sequence[Callable[..., Any]] = ()

    def __deepcopy__(self, memo: Any) -> ProcessEnvironment:
        return type(self)(self.workers, self.name, self.prototype, self.timeout)

    @property
    def tools(self) -> Sequence[Callable[..., Any]]:
        """As the environment tells them once it is reset; to be shown, not called."""
        return self._tools

    @property
    def metrics(self) -> Mapping[str, float]:
        """What the environment counted when it was called last."""
        return {} if self.seat is None else self.seat.metrics

    def reset(self, columns: Mapping[str, Any]) -> str | None:
        """Take a seat in a process, and begin there."""
        self.seat = self.workers.seat(self.name)
        observation, tools = self._ask("reset", self.seed, columns, limit=self.timeout)
        self._tools = tuple(map(find_tool, tools))
        return observation  # type: ignore[no-any-return]

    def respond(self, turns: Sequence[Message]) -> Any:
        """What the environment answers."""
        return self._ask("respond", tuple(turns), limit=limit_answer(self, self.timeout))

    def reward(self) -> Any:
        """What the environment pays."""
        return self._ask("reward", limit=self.timeout)

    def close(self) -> None:
        """Leave the seat."""
        seat, self.seat = self.seat, None
        if seat is not None:
            seat.leave(limit=self.timeout)

    def _ask(self, method: str, *arguments: Any, limit: float) -> Any:
        assert self.seat is not None, "reset comes first"
        return self.seat.call(method, *arguments, limit=limit)


class ProcessToolEnvironment(ProcessEnvironment, ToolEnvironment):
    """Has the calls of a turn made in a process; tools are described to the model from the prototype.

    Functions without an object remember nothing: where a call ends their process they go on in another. An object is
    lost with its process.
    """

    def __init__(self, workers: Workers, name: str | None, prototype: ToolEnvironment, timeout: float) -> None:
        super().__init__(workers, name, prototype, timeout)
        self.counts = {"tools/calls": 0.0, "tools/failures": 0.0}
        self.lost = False
        self._until = 0.0

    @property
    def tools(self) -> Sequence[Callable[..., Any]]:
        """Those of the prototype."""
        return self.prototype.tools  # type: ignore[no-any-return]

    @property
    def metrics(self) -> Mapping[str, float]:
        """As in ``ToolEnvironment``: calls are counted here."""
        return self.counts

    def reset(self, columns: Mapping[str, Any]) -> str | None:
        """Begin anew; functions take a seat when they are called."""
        self.counts = dict.fromkeys(self.counts, 0.0)
        self.seat = None
        return super().reset(columns) if self.prototype.object is not None else None

    def respond(self, turns: Sequence[Message]) -> Sequence[Message] | None:
        """A message for each call of the last turn; None where it has none."""
        self._until = time.monotonic() + limit_answer(self, self.timeout)
        return ToolEnvironment.respond(self, turns)

    def call(self, call: ToolCall) -> str:
        """What a tool answers, within ``timeout``.

        Raises:
            StateLostError: The object is gone, with its process.
            RuntimeError: The process ended over a function.
        """
        limit = min(self.timeout, self._until - time.monotonic())
        if limit <= 0:
            raise RuntimeError(f"no time left: the calls of a turn have {limit_answer(self, self.timeout):g} seconds")
        if self.prototype.object is not None:
            return str(self._ask("call", call, limit=limit))
        return self._call_function(call, limit)

    def _call_function(self, call: ToolCall, limit: float) -> str:
        for attempt in range(TRIES):
            try:
                self.seat = self.seat or self.workers.seat(self.name)
                return str(self._ask("call", call, limit=limit))
            except StateLostError as error:
                self.seat = None
                # where the process had ended before, the call of another episode ended it
                if not isinstance(error, NotAskedError) or attempt == TRIES - 1:
                    raise RuntimeError(str(error)) from error
        raise AssertionError("unreachable")

    def reward(self) -> float | None:
        """The object's ``get_reward()``."""
        if self.seat is None or not hasattr(self.prototype.object, "get_reward"):
            return None
        return super().reward()  # type: ignore[no-any-return]
