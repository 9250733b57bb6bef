"""Tools, and environments whose methods are tools, by TRL's conventions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lgrpo_lightning.contracts import Environment
from lgrpo_lightning.environments.calls import ToolCall, tool_calls
from lgrpo_lightning.environments.toolbox import Toolbox, run
from lgrpo_lightning.rewards.worker_thread import limited
from lgrpo_lightning.types import Message


class ToolEnvironment(Environment):
    """Answers the tool calls of a turn; a turn without any ends the episode.

    Args:
        functions: Tools that belong to no environment.
        factory: Makes an object whose public methods are tools; ``reset(**columns)`` begins an episode, and
            ``get_reward()``, where there is one, tells its worth. Null: there are only ``functions``.
        format: How calls are written: a key of ``calls.FORMATS``.
        timeout: Seconds that a call may take.
    """

    def __init__(
        self,
        functions: Sequence[Callable[..., Any]] = (),
        factory: Callable[[], Any] | None = None,
        format: str = "json",
        timeout: float = 30.0,
    ) -> None:
        self.functions, self.factory, self.format, self.timeout = tuple(functions), factory, format, timeout
        self.object = None if factory is None else factory()
        self.toolbox = Toolbox([*self.functions, *_methods(self.object)])
        self.counts = {"tools/calls": 0.0, "tools/failures": 0.0}
        self.lost = False  # a call hangs, and may still change the object

    def __deepcopy__(self, memo: Any) -> ToolEnvironment:
        return ToolEnvironment(self.functions, self.factory, self.format, self.timeout)

    @property
    def tools(self) -> Sequence[Callable[..., Any]]:
        """The functions and the object's methods."""
        return tuple(self.toolbox.functions.values())

    @property
    def metrics(self) -> Mapping[str, float]:
        """Calls of the episode, and those that failed."""
        return self.counts

    def reset(self, columns: Mapping[str, Any]) -> str | None:
        """Begin anew: the object's ``reset`` is given the data columns."""
        self.counts = dict.fromkeys(self.counts, 0.0)
        if self.object is None:
            return None
        found = self.object.reset(**columns)
        return None if found is None else str(run(found) if inspect.isawaitable(found) else found)

    def respond(self, turns: Sequence[Message]) -> Sequence[Message] | None:
        """A message for each call of the last turn; None where it has none."""
        calls = _parsed(turns[-1]) or tool_calls(str(turns[-1]["content"]), self.format)
        return [self._answer(call) for call in calls] or None

    def reward(self) -> float | None:
        """The object's ``get_reward()``."""
        if not hasattr(self.object, "get_reward"):
            return None
        found = self.object.get_reward()  # type: ignore[union-attr]
        found = run(found) if inspect.isawaitable(found) else found
        return None if found is None else float(found)

    def _answer(self, call: ToolCall) -> Message:
        """What a call gives, or the error, for the model to read."""
        self.counts["tools/calls"] += 1
        try:
            content = limited(lambda: self.toolbox.called(call), timeout=self.timeout)
        except (Exception, SystemExit) as error:
            self.lost |= isinstance(error, TimeoutError)
            self.counts["tools/failures"] += 1
            content = str({"error": str(error) or type(error).__name__})
        return {"role": "tool", "name": call.name or "unknown", "content": content}


def _methods(owner: Any) -> list[Callable[..., Any]]:
    """The public methods of an object but ``reset`` and ``get_reward``.

    Raises:
        ValueError: It has no ``reset``.
    """
    if owner is None:
        return []
    names = [name for name, _ in inspect.getmembers(type(owner), inspect.isfunction)]
    if "reset" not in names:
        raise ValueError(f"The environment {type(owner).__name__} has no method reset(**columns).")
    own = [n for n in names if not n.startswith("_") and n not in ("reset", "get_reward")]
    return [getattr(owner, name) for name in own]


def _parsed(message: Message) -> list[ToolCall]:
    """The calls of a message that a tokenizer has parsed."""
    functions = [call.get("function", {}) for call in message.get("tool_calls") or ()]
    return [ToolCall(name=str(f.get("name")), arguments=f.get("arguments") or {}) for f in functions]
