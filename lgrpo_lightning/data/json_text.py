"""What rows hold as JSON text where chat templates want objects: messages, tool calls, tools."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Message

OBJECTS = re.compile(r"\s*\[\s*\{.*\}\s*\]\s*", re.DOTALL)
"""Text that may be a list of objects: JSON, or what Python and NumPy print."""


def read_messages(text: str, where: str) -> list[Any] | None:
    """The messages that ``text`` is the JSON or the Python form of; None where it is another text.

    >>> read_messages('[{"role": "user", "content": "1+1?"}]', "row 0"), read_messages('[{"a": 1}]', "row 0")
    ([{'role': 'user', 'content': '1+1?'}], None)
    """
    if not OBJECTS.fullmatch(text):
        return None
    try:
        messages = parse_json(text)
        if isinstance(messages, str):
            messages = ast.literal_eval(text.strip())  # what pandas writes for a list in CSV
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        if not all(re.search(rf"['\"]{key}['\"]\s*:", text) for key in ("role", "content")):
            return None
        raise UserError(
            f"{where}: the prompt is text that looks like a list of messages and cannot be read as one ({error}): "
            f"{text[:80]!r}. Write it with json.dumps, or as a list in JSONL or Parquet."
        ) from error
    forms = ({"role"}, {"from", "value"})
    alike = all(isinstance(item, Mapping) and any(keys <= set(item) for keys in forms) for item in messages)
    return list(messages) if alike else None


def parse_arguments(message: Message, where: str) -> Message:
    """``message`` with the arguments of its tool calls as objects: templates write text as text, in quotes.

    OpenAI's interface has them as JSON text.
    """
    if message.get("function_call"):
        raise UserError(
            f"{where} has function_call, which no chat template shows. Write it as tool_calls: "
            '[{"type": "function", "function": {"name": …, "arguments": {…}}}].'
        )
    if not message.get("tool_calls"):
        return message
    calls = parse_json(message["tool_calls"])
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise UserError(f"{where}: tool_calls is {calls!r}; it must be a list of objects.")
    return {**message, "tool_calls": [_parse_call(call, f"{where}, tool call {n}") for n, call in enumerate(calls)]}


def list_called(messages: Sequence[Message]) -> list[str]:
    """Names of the functions that ``messages`` call, as ``parse_arguments`` leaves them."""
    calls = (call for m in messages for call in m.get("tool_calls") or ())
    return [str((call.get("function") or call)["name"]) for call in calls]


def change_function(call: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """A call or a tool with what describes its function changed: itself, or its entry ``function``."""
    inner = call.get("function")
    return {**call, "function": change(inner)} if isinstance(inner, Mapping) else change(call)


def _parse_call(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    def parse(function: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(function.get("name"), str):
            raise UserError(f"{where} is {call!r}, which has no name of a function.")
        raw = function.get("arguments")
        arguments = {} if raw is None or raw == "" else parse_json(raw)
        if not isinstance(arguments, Mapping):
            raise UserError(
                f"{where} ({function['name']}) has the arguments {raw!r}; they must be an object, or the JSON text of "
                "one."
            )
        return {**function, "arguments": dict(arguments)}

    return change_function(call, parse)


def parse_json(value: Any) -> Any:
    """What ``value`` is the JSON text of; itself where it is no such text.

    >>> parse_json('{"a": 1}'), parse_json([1]), parse_json("a")
    ({'a': 1}, [1], 'a')
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
