"""Calls of tools: a name, and arguments of the types that the tool's schema says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

TYPES: Mapping[str, tuple[type, ...]] = {
    "integer": (int,), "number": (int, float), "boolean": (bool,), "object": (dict,), "array": (list,),
    "null": (type(None),),
}  # fmt: skip
PYTHON = {"True": True, "False": False, "None": None}


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
        """As it stands in ``tool_calls`` of an assistant's message."""
        call = {"type": "function", "function": {"name": self.name, "arguments": dict(self.arguments)}}
        return {**call, "problem": self.problem} if self.problem else call

    @classmethod
    def from_message(cls, call: Mapping[str, Any]) -> ToolCall:
        """The call that stands in ``tool_calls`` of a message."""
        if problem := call.get("problem"):
            return cls(name=str(call.get("function", {}).get("name", "")), problem=str(problem))
        function = call.get("function", call)
        return cls.from_parts(function.get("name"), function.get("arguments"))


def describe_tools(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Tools as the chat template gets them: what is a function is described by its type hints and docstring."""
    from transformers.utils import get_json_schema

    return [dict(tool) if isinstance(tool, Mapping) else get_json_schema(tool) for tool in tools]


def list_names(tools: Sequence[Any]) -> list[str]:
    """The tools' names, without their descriptions being read."""
    return [str((t.get("function") or t).get("name")) if isinstance(t, Mapping) else t.__name__ for t in tools]


def convert_arguments(call: ToolCall, tools: Sequence[Any]) -> ToolCall:
    """``call``, whose arguments are texts, with each as its tool's schema says."""
    mine = [tool for tool, name in zip(tools, list_names(tools), strict=True) if name == call.name]
    if call.problem or not mine:
        return call
    function = describe_tools(mine)[0]
    known = (function.get("function") or function).get("parameters", {}).get("properties", {})
    return replace(call, arguments={k: convert(v, known.get(k, {})) for k, v in call.arguments.items()})


def convert(text: str, schema: Mapping[str, Any]) -> Any:
    """What ``text`` stands for. It stays text where the schema says so, or where it is not JSON.

    >>> convert("75001", {"type": "string"}), convert("75001", {"type": "integer"}), convert("True", {})
    ('75001', 75001, True)
    >>> convert("null", {"type": "string", "nullable": True}), convert("[1]", {})
    (None, [1])
    """
    kinds = _list_kinds(schema)
    try:
        parsed = PYTHON[text.strip()] if text.strip() in PYTHON else json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text
    if "string" not in kinds:
        return parsed
    others = tuple(kind for name in kinds for kind in TYPES.get(name, ()))
    return parsed if type(parsed) in others else text


def _list_kinds(schema: Mapping[str, Any]) -> set[str]:
    """The types that a schema allows."""
    own = schema.get("type", [])
    kinds = {own} if isinstance(own, str) else set(own)
    for union in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        kinds |= _list_kinds(union)
    return kinds | ({"null"} if schema.get("nullable") else set())
