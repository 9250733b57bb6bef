"""Tool calls in the text of a turn, by the formats that models were trained on."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice

from lgrpo_lightning.environments import tool_call_syntaxes as syntaxes
from lgrpo_lightning.environments.tool_call import ToolCall


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a model writes its calls.

    Attributes:
        read: The calls in what stands between the marks.
        opens, closes: Marks of a call, regular expressions.
        bare: How a turn begins that is a call without marks. It is one where its group ``name`` names a tool, or where
            another group was found: what only calls have.
        marked: Whether what stands between marks is always meant as a call; else it has to begin as ``bare`` says.
        typed: Whether every argument is written as text, so that the tool's schema says what it is.
    """

    read: syntaxes.Reader
    opens: str = r"(?!)"
    closes: str = r"\Z"
    bare: str = r"(?!)"
    marked: bool = True
    typed: bool = False


BARE_JSON = (
    r'\s*\[?\s*\{\s*(?:"(?:type|id)"\s*:\s*"[^"]*"\s*,\s*)*(?:"function"\s*:\s*\{\s*)?'
    r'(?:"name"\s*:\s*"(?P<name>[^"]*)"(?P<after>\s*,\s*"(?:arguments|parameters)"\s*:)?'
    r'|(?P<first>"(?:arguments|parameters)"\s*:\s*\{))'
)
BARE_PYTHON = r"\s*\[\s*(?P<name>[A-Za-z_][\w.]*)\(\s*(?P<keyword>\w+\s*=(?!=))?"

FORMATS: dict[str, Format] = {
    "hermes": Format(opens="<tool_call>", closes="</tool_call>", read=syntaxes.read_json_calls),
    "qwen3_coder": Format(
        opens="<tool_call>",
        closes="</tool_call>",
        read=syntaxes.make_pair_reader(
            r"\s*<function=([^>\n]+)>",
            r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>(?=\s*(?:<parameter=|</function>))",
            r"\s*</function>\s*",
        ),
        typed=True,
    ),
    "glm": Format(
        opens="<tool_call>",
        closes="</tool_call>",
        read=syntaxes.make_pair_reader(
            r"\s*([^\s<{]+)",
            r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>(?=\s*(?:<arg_key>|\Z))",
            r"\s*",
        ),
        typed=True,
    ),
    "invoke": Format(
        opens=r"<(?:\w+:)?(?:function_calls|tool_call)>",
        closes=r"</(?:\w+:)?(?:function_calls|tool_call)>",
        read=syntaxes.make_pair_reader(
            r'\s*<(?:\w+:)?invoke name="([^"]+)">',
            r'\s*<(?:\w+:)?parameter name="([^"]+)">(.*?)</(?:\w+:)?parameter>(?=\s*<(?:\w+:parameter|parameter|/))',
            r"\s*</(?:\w+:)?invoke>\s*",
        ),
        typed=True,
    ),
    "harmony": Format(
        opens=r"to=functions\.(?=[\w.-]+(?:<\|channel\|>\w+)?\s*(?:<\|constrain\|>)?\w*<\|message\|>)",
        closes=r"<\|call\|>|\Z",
        read=syntaxes.make_json_reader(r"([\w.-]+).*?<\|message\|>(.*)"),
    ),
    "gemma4": Format(opens=r"<\|tool_call>", closes=r"<tool_call\|>", read=syntaxes.read_gemma_calls),
    "deepseek": Format(
        opens="<｜tool▁call▁begin｜>",
        closes="<｜tool▁call▁end｜>",
        read=syntaxes.make_json_reader(
            r"(?:function<｜tool▁sep｜>)?([^\n<]+)(?:<｜tool▁sep｜>|\n```json\n)(.*?)(?:\n```)?\s*"
        ),
    ),
    "mistral": Format(opens=r"\[TOOL_CALLS\]", closes=r"(?=\[TOOL_CALLS\])|</s>|\Z", read=syntaxes.read_mistral_calls),
    "llama3": Format(
        opens=r"<\|python_tag\|>", closes=r"<\|eom_id\|>|<\|eot_id\|>|\Z", bare=BARE_JSON, read=syntaxes.read_json_calls
    ),
    "json": Format(
        opens=r"```(?:json)?[ \t]*\n", closes=r"```|\Z", marked=False, bare=BARE_JSON, read=syntaxes.read_json_calls
    ),
    "pythonic": Format(
        opens=r"<\|tool_call_start\|>|<\|python_start\|>|<function_calls>|```tool_code\s*\n",
        closes=r"<\|tool_call_end\|>|<\|python_end\|>|</function_calls>|\n```|\Z",
        bare=BARE_PYTHON,
        read=syntaxes.read_python_calls,
    ),
}
"""Name → format."""

REASONING = {
    "<think>": "</think>",
    "[THINK]": "[/THINK]",
    "<|channel>thought": "<channel|>",
    "<|channel|>analysis<|message|>": "<|end|>",
    "<seed:think>": "</seed:think>",
    "<|START_THINKING|>": "<|END_THINKING|>",
}
"""Where reasoning begins → where it ends; no call is made from it."""

BEGINS = "|".join(map(re.escape, REASONING))
TRIES = 16
"""How many closing marks are tried as the end of one call; those before it stand in its arguments."""


def find_tool_calls(text: str, format: str, tools: Collection[str] = ()) -> list[ToolCall]:
    """The calls in ``text``, in order; one that is malformed has a ``problem``.

    Calls are read where the answer stands, not in reasoning. An opening mark there is the beginning of a call.

    Args:
        text: Of a turn, special tokens written out, the one that ends it left out.
        format: A key of ``FORMATS``.
        tools: Names of the tools.

    >>> found = find_tool_calls('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', "hermes")
    >>> [(call.name, dict(call.arguments)) for call in found]
    [('add', {'a': 1})]
    >>> find_tool_calls("<tool_call>{add}</tool_call>", "hermes")[0].problem[:12]
    'not JSON: Ex'
    >>> find_tool_calls("<think>I might use <tool_call>.</think> It is 3.", "hermes")
    []
    """
    known = FORMATS[format]
    at, calls = skip_reasoning(text), list[ToolCall]()
    if _begins_bare(known, text, at, tools):
        return _read(known, text, at)[0]
    marks = re.compile(rf"(?P<reasoning>{BEGINS})|{known.opens}")
    while mark := marks.search(text, at):
        at = mark.end()
        if mark["reasoning"]:
            at = _skip_past(text, at, REASONING[mark["reasoning"]])
        elif known.marked or _begins_bare(known, text, at, tools):
            body, at = _read(known, text, at)
            calls += body
    return calls


def skip_reasoning(text: str, start: int = 0) -> int:
    """Where the reasoning ends that a text begins with, from ``start`` on.

    >>> skip_reasoning("<think>a</think> b"), skip_reasoning("<think>a"), skip_reasoning("a")
    (16, 8, 0)
    """
    while begun := re.compile(rf"\s*({BEGINS})").match(text, start):
        start = _skip_past(text, begun.end(), REASONING[begun[1]])
    return start


def _begins_bare(known: Format, text: str, at: int, tools: Collection[str]) -> bool:
    """Whether a call without marks begins at ``at``."""
    begun = re.compile(known.bare).match(text, at)
    groups = {} if begun is None else begun.groupdict()
    return groups.pop("name", None) in tools or any(groups.values())


def _read(known: Format, text: str, start: int) -> tuple[list[ToolCall], int]:
    """(the calls from ``start`` on, where they end); what cannot be read ends at the first closing mark."""
    problem, after = "", len(text)
    for end in islice(re.compile(known.closes).finditer(text, start), TRIES):
        try:
            return known.read(text[start : end.start()]), end.end()
        except (ValueError, RecursionError) as error:
            if not problem:
                problem, after = str(error), end.end()
    return [ToolCall(problem=problem or f"{known.closes} is missing")], after


def _skip_past(text: str, start: int, mark: str) -> int:
    end = text.find(mark, start)
    return len(text) if end < 0 else end + len(mark)
