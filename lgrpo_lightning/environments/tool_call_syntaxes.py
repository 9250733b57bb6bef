"""What stands between the marks of a tool call, by syntax: JSON, Python, pairs of keys and values, Gemma's objects."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lgrpo_lightning.environments.tool_call import ToolCall

Reader = Callable[[str], list[ToolCall]]
"""The calls in a text; a ValueError says why it is none."""


def read_json_calls(text: str) -> list[ToolCall]:
    """``{"name": …, "arguments": {…}}``, a list of them, or several with nothing, ``,`` or ``;`` between."""
    calls = [call for value in _read_values(text) for call in (value if isinstance(value, list) else [value])]
    return [_make_call(call) for call in calls]


def _make_call(call: Any) -> ToolCall:
    if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping):
        call = call["function"]
    if not isinstance(call, Mapping):
        return ToolCall.from_parts(None, None)
    return ToolCall.from_parts(call.get("name"), call.get("arguments", call.get("parameters")))


def _read_values(text: str) -> Iterator[Any]:
    """JSON values, one after the other; a string may have raw line breaks."""
    decoder, at, text = json.JSONDecoder(strict=False), 0, text.strip()
    if not text:
        raise ValueError("there is nothing in it")
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from None
        yield value
        at += len(text[at:]) - len(text[at:].lstrip(";, \n\r\t"))


def make_json_reader(pattern: str) -> Reader:
    """A name, and its arguments in JSON: the two groups of a pattern.

    >>> make_json_reader(r"(\\w+)=(.*)")('add={"a": 1}')[0].arguments
    {'a': 1}
    """

    def read(text: str) -> list[ToolCall]:
        match = re.fullmatch(pattern, text.strip(), re.DOTALL)
        if match is None:
            raise ValueError("there is no name with arguments")
        (arguments,) = list(_read_values(match[2])) if match[2].strip() else [None]
        return [ToolCall.from_parts(match[1].strip(), arguments)]

    return read


def read_mistral_calls(text: str) -> list[ToolCall]:
    """``[{"name": …, "arguments": {…}}]``, or ``name[ARGS]{…}`` with perhaps an id between."""
    if text.lstrip()[:1] in ("[", "{", ""):
        return read_json_calls(text)
    return make_json_reader(r"([\w.-]+)\s*(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(\{.*)")(text)


STRING = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)


def read_python_calls(text: str) -> list[ToolCall]:
    """``[add(a=1, b=2), now()]``, or one call a line. Arguments are literals by name; nothing is run."""
    source = STRING.sub(lambda string: string[0].replace("\n", "\\n"), text.strip())
    try:
        lines = ast.parse(source).body
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"not a call: {getattr(error, 'msg', type(error).__name__)}") from None
    values = [line.value if isinstance(line, ast.Expr) else None for line in lines]
    return [
        _make_python_call(call) for value in values for call in (value.elts if isinstance(value, ast.List) else [value])
    ]


def _make_python_call(call: ast.expr | None) -> ToolCall:
    if not isinstance(call, ast.Call):
        return ToolCall(problem="not a call")
    name = ast.unparse(call.func)
    if call.args or any(k.arg is None for k in call.keywords):
        return ToolCall(name=name, problem="arguments go by name")
    try:
        values = {str(k.arg): ast.literal_eval(_JsonNames().visit(k.value)) for k in call.keywords}
    except (ValueError, TypeError, MemoryError, RecursionError):
        return ToolCall(name=name, problem="an argument is no literal")
    return ToolCall(name=name, arguments=values)


class _JsonNames(ast.NodeTransformer):
    """``true``, ``false`` and ``null``, as templates write them that use JSON for values."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        names = {"true": True, "false": False, "null": None}
        return ast.Constant(names[node.id]) if node.id in names else node


def make_pair_reader(head: str, pair: str, tail: str) -> Reader:
    """Calls whose arguments stand one by one, as texts: a name, pairs of key and value, and what ends them.

    >>> make_pair_reader(r"(\\w+):", r" (\\w+)=(\\w+)", r"\\.")("add: a=1 b=2.")[0].arguments
    {'a': '1', 'b': '2'}
    """
    begins, part, ends = (re.compile(pattern, re.DOTALL) for pattern in (head, pair, tail))

    def read(text: str) -> list[ToolCall]:
        calls, at = list[ToolCall](), 0
        while text[at:].strip() or not calls:
            if not (name := begins.match(text, at)):
                raise ValueError("there is no name, or what follows an argument is not understood")
            at, values = name.end(), dict[str, str]()
            while match := part.match(text, at):
                values[match[1].strip()], at = match[2], match.end()
            if not (end := ends.match(text, at)):
                raise ValueError(f"the arguments of {name[1]} are not understood from {text[at:][:40]!r} on")
            calls.append(ToolCall(name=name[1].strip(), arguments=values))
            at = end.end()
        return calls

    return read


GEMMA = re.compile(r'<\|"\|>(.*?)<\|"\|>|(?<=[{,])\s*([^\s{}\[\],:<"]+)\s*(?=:)|\b(None|True|False)\b', re.DOTALL)
NAMES = {"None": "null", "True": "true", "False": "false"}


def read_gemma_calls(text: str) -> list[ToolCall]:
    """``call:add{a:1,b:<|"|>two<|"|>}``: keys without quotes, strings between marks of their own.

    >>> read_gemma_calls('call:add{a:1,b:<|"|>{x:1}<|"|>}')[0].arguments
    {'a': 1, 'b': '{x:1}'}
    """

    def quote(match: re.Match[str]) -> str:
        return NAMES[match[3]] if match[3] else json.dumps(match[1] if match[2] is None else match[2])

    return make_json_reader(r"call:([\w.:-]+?)\s*(\{.*\})")(GEMMA.sub(quote, text))
