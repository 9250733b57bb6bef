"""What rows hold as JSON text where chat templates want objects: messages, tool calls, tools."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Message

OBJECTS = re.compile(r"\s*\[\s*\{.*\}\s*\]\s*", re.DOTALL)
"""Text that may be a list of objects: JSON, or what Python and NumPy print."""


def messages_in(text: str, where: str) -> list[Any] | None:
    """The messages that ``text`` is the JSON or the Python form of; None where it is another text.

    Raises:
        ValueError: It looks like messages and cannot be read.

    >>> messages_in('[{"role": "user", "content": "1+1?"}]', "row 0"), messages_in('[{"a": 1}]', "row 0")
    ([{'role': 'user', 'content': '1+1?'}], None)
    """
    if not OBJECTS.fullmatch(text):
        return None
    try:
        found = parsed(text)
        if isinstance(found, str):
            found = ast.literal_eval(text.strip())  # what pandas writes for a list in CSV
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        if not all(re.search(rf"['\"]{key}['\"]\s*:", text) for key in ("role", "content")):
            return None
        raise UserError(
            f"{where}: the prompt is text that looks like a list of messages and cannot be read as one ({error}): "
            f"{text[:80]!r}. Write it with json.dumps, or as a list in JSONL or Parquet."
        ) from error
    forms = ({"role"}, {"from", "value"})
    alike = all(isinstance(item, Mapping) and any(keys <= set(item) for keys in forms) for item in found)
    return list(found) if alike else None


def with_arguments(message: Message, where: str) -> Message:
    """``message`` with the arguments of its tool calls as objects: templates write text as text, in quotes.

    OpenAI's interface has them as JSON text.

    Raises:
        ValueError: They are no object, or calls are given in another form; naming ``where``.
    """
    if message.get("function_call"):
        raise UserError(
            f"{where} has function_call, which no chat template shows. Write it as tool_calls: "
            '[{"type": "function", "function": {"name": …, "arguments": {…}}}].'
        )
    if not message.get("tool_calls"):
        return message
    calls = parsed(message["tool_calls"])
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise UserError(f"{where}: tool_calls is {calls!r}; it must be a list of objects.")
    return {**message, "tool_calls": [_call(call, f"{where}, tool call {n}") for n, call in enumerate(calls)]}


def called(messages: Sequence[Message]) -> list[str]:
    """Names of the functions that ``messages`` call, as ``with_arguments`` leaves them."""
    calls = (call for m in messages for call in m.get("tool_calls") or ())
    return [str((call.get("function") or call)["name"]) for call in calls]


def _call(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    inner = call.get("function")
    function = inner if isinstance(inner, Mapping) else call
    if not isinstance(function.get("name"), str):
        raise UserError(f"{where} is {call!r}, which has no name of a function.")
    given = function.get("arguments")
    arguments = {} if given is None or given == "" else parsed(given)
    if not isinstance(arguments, Mapping):
        raise UserError(
            f"{where} ({function['name']}) has the arguments {given!r}; they must be an object, or the JSON text of "
            "one."
        )
    whole = {**function, "arguments": dict(arguments)}
    return {**call, "function": whole} if function is inner else whole


def parsed(value: Any) -> Any:
    """What ``value`` is the JSON text of; itself where it is no such text.

    >>> parsed('{"a": 1}'), parsed([1]), parsed("a")
    ({'a': 1}, [1], 'a')
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
