"""A call of a tool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call that a turn asks for; ``problem``: why it cannot be made, or empty."""

    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @classmethod
    def from_parts(cls, name: Any, arguments: Any) -> ToolCall:
        """A call from what a parser found: arguments may be JSON text, and null where there are none.

        >>> ToolCall.from_parts("add", '{"a": 1}').arguments, ToolCall.from_parts("now", 3).problem
        ({'a': 1}, 'its arguments are no object')
        """
        if not isinstance(name, str) or not name:
            return cls(problem="a call is an object with a name and arguments")
        if isinstance(arguments, str):
            with suppress(ValueError, RecursionError):
                arguments = json.loads(arguments or "{}", strict=False)
        if arguments is not None and not isinstance(arguments, Mapping):
            return cls(name=name, problem="its arguments are no object")
        return cls(name=name, arguments=dict(arguments or {}))

    @property
    def message(self) -> dict[str, Any]:
        """As it stands in ``find_tool_calls`` of an assistant's message."""
        call = {"type": "function", "function": {"name": self.name, "arguments": dict(self.arguments)}}
        return {**call, "problem": self.problem} if self.problem else call

    @classmethod
    def from_message(cls, call: Mapping[str, Any]) -> ToolCall:
        """The call that stands in ``find_tool_calls`` of a message."""
        if problem := call.get("problem"):
            return cls(name=str(call.get("function", {}).get("name", "")), problem=str(problem))
        function = call.get("function", call)
        return cls.from_parts(function.get("name"), function.get("arguments"))
