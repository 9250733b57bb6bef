"""Tools, and environments whose methods are tools, by TRL's conventions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.environments.limits import RAISED, StateLostError
from lgrpo_lightning.environments.tool_call import ToolCall
from lgrpo_lightning.environments.tools import ToolError, await_answer, convert_answer, describe_error, list_methods
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.registry.import_path import import_object

if TYPE_CHECKING:
    from lgrpo_lightning.types import Message


class ToolEnvironment(Environment):
    """Answers the tool calls of a turn; a turn without any ends the episode.

    Args:
        functions: Tools as TRL takes them: type-hinted, with a docstring of Google's style, sync or async.
        factory: Makes an object whose public methods are tools, too; its ``reset(**columns)`` begins an episode, and
            ``get_reward()``, where there is one, is the reward. None: there are only ``functions``.
        timeout: Seconds that a call may take.

    Raises:
        ValueError: Two tools have one name, or the object has no ``reset``.

    >>> def add(a: int, b: int) -> int:
    ...     \"\"\"Add two numbers.
    ...
    ...     Args:
    ...         a: The first.
    ...         b: The second.
    ...     \"\"\"
    ...     return a + b
    >>> ToolEnvironment([add]).call(ToolCall(name="add", arguments={"a": 1, "b": 2}))
    '3'
    """

    def __init__(
        self,
        functions: Sequence[Callable[..., Any]] = (),
        factory: Callable[[], Any] | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.functions, self.factory, self.timeout = tuple(functions), factory, timeout
        self.paths: tuple[Sequence[str], str | None] | None = None  # of functions and factory
        self.object = None if factory is None else factory()
        tools = (*self.functions, *list_methods(self.object))
        self._by_name = {tool.__name__: tool for tool in tools}
        if len(self._by_name) < len(tools):
            names = [tool.__name__ for tool in tools]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise UserError(f"Two tools are called {twice[0]!r}; each needs a name of its own.")
        self.counts = {"tools/calls": 0.0, "tools/failures": 0.0}
        self.lost = False  # a call hangs, and may still change the object

    @staticmethod
    def from_paths(functions: Sequence[str], factory: str | None, timeout: float) -> ToolEnvironment:
        """From import paths: it is sent to other processes by them, as not all that they lead to can be pickled."""
        make = None if factory is None else import_object(factory)
        made = ToolEnvironment([import_object(path) for path in functions], make, timeout)
        made.paths = (tuple(functions), factory)
        return made

    # a copy, and one in another process, makes the object anew: it may hold a connection, say
    def __deepcopy__(self, memo: Any) -> Environment:
        return ToolEnvironment(self.functions, self.factory, self.timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.paths is not None:
            return ToolEnvironment.from_paths, (*self.paths, self.timeout)
        return ToolEnvironment, (self.functions, self.factory, self.timeout)

    @property
    def tools(self) -> Sequence[Callable[..., Any]]:
        """The functions and the object's methods."""
        return tuple(self._by_name.values())

    @property
    def metrics(self) -> Mapping[str, float]:
        """Calls of the episode, and those that failed."""
        return self.counts

    def reset(self, columns: Mapping[str, Any]) -> str | None:
        """Begin anew: the object's ``reset`` is given the data columns."""
        self.counts = dict.fromkeys(self.counts, 0.0)
        observation = None if self.object is None else await_answer(self.object.reset(**columns))
        return None if observation is None else str(observation)

    def respond(self, turns: Sequence[Message]) -> Sequence[Message] | None:
        """A message for each call of the last turn; None where it has none."""
        calls = turns[-1].get("tool_calls") or ()
        return [self._answer(ToolCall.from_message(call)) for call in calls] or None

    def reward(self) -> float | None:
        """The object's ``get_reward()``."""
        if not hasattr(self.object, "get_reward"):
            return None
        reward = await_answer(self.object.get_reward())  # type: ignore[union-attr]
        return None if reward is None else float(reward)

    def call(self, call: ToolCall) -> str:
        """What a tool answers, within ``timeout``; errors as of ``run``."""
        # here, as a process of environments imports this module without torch
        from lgrpo_lightning.distributed.worker_thread import call_with_limit

        answer: str = call_with_limit(lambda: self.run(call), timeout=self.timeout)
        return answer

    def run(self, call: ToolCall) -> str:
        """What a tool answers, as text; a ``ToolError`` where the call cannot be made, or what the tool raises."""
        if call.problem:
            raise ToolError(f"The call is malformed: {call.problem}.")
        if call.name not in self._by_name:
            raise ToolError(f"There is no tool {call.name!r}; there are {', '.join(self._by_name) or 'none'}.")
        tool = self._by_name[call.name]
        try:
            inspect.signature(tool).bind(**call.arguments)
        except TypeError as error:
            raise ToolError(f"{call.name}: {error}.") from None
        return convert_answer(await_answer(tool(**call.arguments)))

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
