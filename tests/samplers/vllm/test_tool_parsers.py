"""vLLM's tool parsers, with calls in each model's own syntax; no engine is started."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from lgrpo_lightning.environments.vllm_calls import vllm_parser
from tests.environments import templates

manager = pytest.importorskip("vllm.tool_parsers").ToolParserManager

Calls = list[tuple[str, dict[str, Any]]]


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def raw(value: Any) -> str:
    return value if isinstance(value, str) else dumped(value)


def objects(before: str, after: str, key: str = "arguments") -> Callable[[Calls], str]:
    """One JSON object a call, each between marks."""
    return lambda calls: "\n".join(f"{before}{dumped({'name': n, key: a})}{after}" for n, a in calls)


def listed(before: str, after: str, key: str = "arguments") -> Callable[[Calls], str]:
    """One JSON list of calls."""
    return lambda calls: f"{before}{dumped([{'name': n, key: a} for n, a in calls])}{after}"


def pairs(call: str, argument: str, begin: str = "", end: str = "") -> Callable[[Calls], str]:
    """Arguments one by one: NAME, ARGUMENTS in ``call``; KEY, VALUE in ``argument``."""

    def write(calls: Calls) -> str:
        spelled = [
            call.replace("NAME", n).replace(
                "ARGUMENTS",
                "".join(argument.replace("KEY", k).replace("VALUE", raw(v)) for k, v in a.items()),
            )
            for n, a in calls
        ]
        return begin + "\n".join(spelled) + end

    return write


def json_pairs(call: str, begin: str = "", end: str = "") -> Callable[[Calls], str]:
    """NAME and ARGUMENTS, the latter in JSON."""
    return lambda calls: (
        begin + "".join(call.replace("NAME", n).replace("ARGUMENTS", dumped(a)) for n, a in calls) + end
    )


def python(before: str, after: str, between: str = ", ") -> Callable[[Calls], str]:
    def write(calls: Calls) -> str:
        spelled = [f"{n}({', '.join(f'{k}={v!r}' for k, v in a.items())})" for n, a in calls]
        return before + between.join(spelled) + after

    return write


XML = pairs(
    "<tool_call>\n<function=NAME>\nARGUMENTS</function>\n</tool_call>",
    "<parameter=KEY>\nVALUE\n</parameter>\n",
)
INVOKE = '<invoke name="NAME">\nARGUMENTS</invoke>\n'
PARAMETER = '<parameter name="KEY">VALUE</parameter>\n'
GLM = pairs(
    "<tool_call>NAME\nARGUMENTS</tool_call>", "<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n"
)
V31 = json_pairs("<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGUMENTS<｜tool▁call▁end｜>",
                 "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")  # fmt: skip

SYNTAX: dict[str, Callable[[Calls], str]] = {
    "apertus": lambda calls: f"<|tools_prefix|>{dumped([{n: a} for n, a in calls])}<|tools_suffix|>",
    "deepseek_v3": json_pairs(
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
    ),
    "deepseek_v31": V31,
    "dots": pairs(f"<dots_function_call>\n{INVOKE}</dots_function_call>", PARAMETER),
    "ernie45": objects("<tool_call>\n", "\n</tool_call>\n"),
    "glm45": GLM,
    "glm47": GLM,
    "granite": listed("<|tool_call|>", ""),
    "granite-20b-fc": objects("<function_call> ", ""),
    "granite4": objects("<tool_call>\n", "\n</tool_call>"),
    "hermes": objects("<tool_call>\n", "\n</tool_call>"),
    "hunyuan_a13b": listed("<tool_calls>", "</tool_calls>"),
    "jamba": listed("<tool_calls>", "</tool_calls>"),
    "kimi_k2": json_pairs(
        "<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>ARGUMENTS<|tool_call_end|>",
        "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>",
    ),
    "lfm2": python("<|tool_call_start|>[", "]<|tool_call_end|>"),
    "llama3_json": lambda calls: "; ".join(dumped({"name": n, "parameters": a}) for n, a in calls),
    "llama4_json": lambda calls: "; ".join(dumped({"name": n, "parameters": a}) for n, a in calls),
    "llama4_pythonic": python("[", "]"),
    "longcat": objects("<longcat_tool_call>\n", "\n</longcat_tool_call>"),
    "minimax_m2": pairs(INVOKE, PARAMETER, "<minimax:tool_call>\n", "</minimax:tool_call>"),
    "mistral": json_pairs("[TOOL_CALLS]NAME[ARGS]ARGUMENTS"),
    "olmo3": python("<function_calls>\n", "\n</function_calls>", "\n"),
    "phi4_mini_json": listed("functools", ""),
    "pythonic": python("[", "]"),
    "qwen3_coder": XML,
    "qwen3_json": objects("<tool_call>\n", "\n</tool_call>"),
    "qwen3_xml": XML,
    "seed_oss": pairs(
        "<seed:tool_call>\n<function=NAME>\nARGUMENTS</function>\n</seed:tool_call>",
        "<parameter=KEY>VALUE</parameter>\n",
    ),
    "step3p5": XML,
    "xlam": listed("", ""),
}  # fmt: skip
"""Name of a parser → how its models write calls."""

KINDS: dict[str, Calls] = {
    "text": [("look_up", {"city": "Zürich 結束 🎉", "code": "75001"})],
    "numbers": [("look_up", {"days": 3, "share": -2.5, "metric": True})],
    "nested": [("look_up", {"near": {"x": [1, {"y": "z, w"}]}, "hours": [1, 2]})],
    "no arguments": [("tell_time", {})],
    "lines": [("look_up", {"city": "a\nb"})],
    "marks": [("look_up", {"city": "a </tool_call> b"})],
    "two": [("look_up", {"city": "Bern"}), ("tell_time", {})],
}
TYPES = {"city": "string", "code": "string", "days": "integer", "share": "number", "metric": "boolean",
         "near": "object", "hours": "array"}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": {
        "type": "object", "properties": {k: {"type": t} for k, t in types.items()}
    }}}
    for name, types in (("look_up", TYPES), ("tell_time", {}))
]  # fmt: skip


def outcome(name: str) -> str:
    """The kinds of calls that a parser reads otherwise than they were written."""
    tokens = " ".join(SYNTAX[name](calls) for calls in KINDS.values())
    tokens += "<tool_call></tool_call><seed:tool_call></seed:tool_call><tool_calls></tool_calls>"
    tokens += "<|tool_call|>[TOOL_CALLS][ARGS]<|python_tag|>"
    tokenizer = templates.tokenizer(tokens)
    tokenizer.add_tokens(re.findall(r"</[\w:]+>", tokens), special_tokens=True)
    find = vllm_parser(name, tokenizer)
    wrong = []
    for kind, calls in KINDS.items():
        found = find(SYNTAX[name](calls), TOOLS)
        if [c.problem or (c.name, dict(c.arguments)) for c in found] != calls:
            wrong.append(kind)
    if find("It is 3.", TOOLS):
        wrong.append("none")
    return ", ".join(wrong)


OTHERWISE = {
    "glm45": "marks", "glm47": "marks", "granite4": "marks", "hermes": "marks", "qwen3_json": "marks",
    "phi4_mini_json": "nested",
}  # fmt: skip
"""What vLLM's parsers themselves read wrongly: closing marks within a string, lists within arguments."""

SILENT = ("cohere_command3", "cohere_command4", "hf", "openai")
"""Names whose parsers read no whole turns."""


@pytest.mark.parametrize("name", SYNTAX)
def test_calls_are_read_as_the_models_write_them(name: str) -> None:
    assert outcome(name) == OTHERWISE.get(name, "")


def test_every_parser_can_be_named() -> None:
    """Those without a syntax above: a plain answer has no calls, or the name is refused before the first step."""
    marks = "<tool_calls></tool_calls><tool_call></tool_call><|python_tag|>"
    tokenizer = templates.tokenizer(marks)
    for name in sorted(set(manager.list_registered()) - set(SYNTAX)):
        if name in SILENT:
            with pytest.raises(ValueError, match=f"vLLM's tool parser '{name}' does not go with"):
                vllm_parser(name, tokenizer)
            continue
        with contextlib.suppress(ValueError):  # its marks are no tokens of this tokenizer
            assert vllm_parser(name, tokenizer)("It is 3.", TOOLS) == [], name
