"""Tools, and environments whose methods are tools, by TRL's conventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.environments.limits import RAISED, StateLostError
from lgrpo_lightning.environments.tool_call import ToolCall
from lgrpo_lightning.environments.tools import Tools, describe_error

if TYPE_CHECKING:
    from lgrpo_lightning.types import Message


class ToolEnvironment(Environment):
    """Answers the tool calls of a turn; a turn without any ends the episode.

    Args:
        functions, factory: As in ``Tools``.
        timeout: Seconds that a call may take.
    """

    def __init__(
        self,
        functions: Sequence[Callable[..., Any]] = (),
        factory: Callable[[], Any] | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.functions, self.factory, self.timeout = tuple(functions), factory, timeout
        self.toolset = Tools(self.functions, factory)
        self.counts = {"tools/calls": 0.0, "tools/failures": 0.0}
        self.lost = False  # a call hangs, and may still change the object

    def __reduce__(self) -> tuple[Any, ...]:
        # a copy, and one in another process, makes the object anew: it may hold a connection, say
        return ToolEnvironment, (self.functions, self.factory, self.timeout)

    @property
    def tools(self) -> Sequence[Callable[..., Any]]:
        """The functions and the object's methods."""
        return self.toolset.functions

    @property
    def metrics(self) -> Mapping[str, float]:
        """Calls of the episode, and those that failed."""
        return self.counts

    def reset(self, columns: Mapping[str, Any]) -> str | None:
        """Begin anew: the object's ``reset`` is given the data columns."""
        self.counts = dict.fromkeys(self.counts, 0.0)
        return self.toolset.reset(columns)

    def respond(self, turns: Sequence[Message]) -> Sequence[Message] | None:
        """A message for each call of the last turn; None where it has none."""
        calls = turns[-1].get("tool_calls") or ()
        return [self._answer(ToolCall.from_message(call)) for call in calls] or None

    def reward(self) -> float | None:
        """The object's ``get_reward()``."""
        return self.toolset.reward()

    def call(self, call: ToolCall) -> str:
        """What a tool answers, within ``timeout``."""
        # here, as a process of environments imports this module without torch
        from lgrpo_lightning.distributed.worker_thread import call_with_limit

        answer: str = call_with_limit(lambda: self.toolset.call(call), timeout=self.timeout)
        return answer

    def _answer(self, call: ToolCall) -> Message:
        """What a call gives, or the error, for the model to read."""
        self.counts["tools/calls"] += 1
        try:
            content = self.call(call)
        except StateLostError:
            self.counts["tools/failures"] += 1
            raise
        except RAISED as error:
            self.lost |= isinstance(error, TimeoutError)
            self.counts["tools/failures"] += 1
            content = str({"error": describe_error(error) or type(error).__name__})
        return {"role": "tool", "name": call.name or "unknown", "content": content}
