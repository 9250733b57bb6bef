"""Tool calls in the text of a turn, by the formats that models were trained on."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call that a turn asks for.

    Attributes:
        name: Of the tool.
        arguments: By name.
        problem: Why it cannot be made; empty where it can.
    """

    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def tool_calls(text: str, format: str) -> list[ToolCall]:
    """The calls in ``text``, in order; one that is malformed has a ``problem``.

    Args:
        format: A key of ``FORMATS``.

    >>> found = tool_calls('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', "hermes")
    >>> [(call.name, dict(call.arguments)) for call in found]
    [('add', {'a': 1})]
    >>> tool_calls("<tool_call>{add}</tool_call>", "hermes")[0].problem[:12]
    'not JSON: Ex'
    """
    return list(FORMATS[format](text))


def _hermes(text: str) -> Iterator[ToolCall]:
    """``<tool_call>{"name": …, "arguments": {…}}</tool_call>``: Hermes, Qwen."""
    for inner, closed in re.findall(r"<tool_call>(.*?)(</tool_call>|\Z)", text, re.DOTALL):
        yield from _of_json(inner) if closed else [ToolCall(problem="</tool_call> is missing")]


def _llama3(text: str) -> Iterator[ToolCall]:
    """``{"name": …, "parameters": {…}}``, perhaps after ``<|python_tag|>``, several with ; between: Llama 3."""
    tagged = "<|python_tag|>" in text
    body = text.partition("<|python_tag|>")[2] if tagged else text
    body = body.replace("<|eom_id|>", "").replace("<|eot_id|>", "").strip()
    if tagged or body.startswith("{"):
        yield from _of_json(body, separator=";")


def _mistral(text: str) -> Iterator[ToolCall]:
    """``[TOOL_CALLS][{"name": …, "arguments": {…}}]``: Mistral."""
    _, tag, body = text.partition("[TOOL_CALLS]")
    if tag:
        yield from _of_json(body.replace("</s>", ""))


def _json(text: str) -> Iterator[ToolCall]:
    """An object with a name and arguments, or a list of them: the whole turn, or what stands in a ``json`` block."""
    fenced = re.findall(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    for body in fenced or ([text] if text.strip()[:1] in ("{", "[") else []):
        yield from _of_json(body)


def _pythonic(text: str) -> Iterator[ToolCall]:
    """``[add(a=1, b=2), now()]``: Llama 4, Gemma's ``tool_code``."""
    fenced = re.search(r"```tool_code\s*\n(.*?)```", text, re.DOTALL)
    body = (
        (fenced[1] if fenced else text).replace("<|python_start|>", "").replace("<|python_end|>", "").strip()
    )
    if not fenced and not re.match(r"\[\s*[\w.]+\(", body):
        return
    try:
        parsed = ast.parse(body, mode="eval").body
    except SyntaxError as error:
        yield ToolCall(problem=f"not a call: {error.msg}")
        return
    for call in parsed.elts if isinstance(parsed, ast.List) else [parsed]:
        yield _of_ast(call)


FORMATS: Mapping[str, Callable[[str], Iterator[ToolCall]]] = {
    "hermes": _hermes,
    "llama3": _llama3,
    "mistral": _mistral,
    "json": _json,
    "pythonic": _pythonic,
}
"""Name of a format → what finds its calls."""

MARKS = (
    ("<tool_call>", "hermes"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_start|>", "pythonic"),
    ("tool_code", "pythonic"),
    ("<|python_tag|>", "llama3"),
    ("ipython", "llama3"),
)
"""What a chat template has → the format that its model writes."""


def format_of(chat_template: str | None) -> str:
    """The format that a chat template shows; "json" where it shows none.

    >>> format_of("… <tool_call> …"), format_of(None)
    ('hermes', 'json')
    """
    return next((name for mark, name in MARKS if mark in (chat_template or "")), "json")


def _of_json(text: str, separator: str = "") -> Iterator[ToolCall]:
    """Calls from JSON: an object, a list of objects, or several one after the other."""
    decoder, at, text = json.JSONDecoder(), 0, text.strip()
    if not text:
        yield ToolCall(problem="there is nothing in it")
    while at < len(text):
        try:
            found, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            yield ToolCall(problem=f"not JSON: {error}")
            return
        for call in found if isinstance(found, list) else [found]:
            yield _of_mapping(call)
        rest = text[at:].lstrip(f"{separator}, \n\r\t")
        at = len(text) - len(rest)


def _of_mapping(call: Any) -> ToolCall:
    """A call from what JSON says of it."""
    if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping):
        call = call["function"]
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        return ToolCall(problem="a call is an object with a name and arguments")
    arguments = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):  # some models write JSON in JSON
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            arguments = None
    if not isinstance(arguments, Mapping):
        return ToolCall(name=call["name"], problem="its arguments are no object")
    return ToolCall(name=call["name"], arguments=dict(arguments))


def _of_ast(call: ast.expr) -> ToolCall:
    """A call from Python's syntax; arguments are literals by name. Nothing is run."""
    if not isinstance(call, ast.Call):
        return ToolCall(problem="not a call")
    name = ast.unparse(call.func)
    if call.args or any(k.arg is None for k in call.keywords):
        return ToolCall(name=name, problem="arguments go by name")
    try:
        return ToolCall(name=name, arguments={str(k.arg): ast.literal_eval(k.value) for k in call.keywords})
    except ValueError:
        return ToolCall(name=name, problem="an argument is no literal")
