"""vLLM's tool parsers, with calls in each model's own syntax; no engine is started."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from lgrpo_lightning.environments.template import TurnTemplate
from lgrpo_lightning.environments.tool_call_reader import make_call_reader, make_vllm_reader
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
    """Arguments one by one: NAME, ARGUMENTS in ``call``; KEY, VALUE in ``argument``, and perhaps TYPE, IS_TEXT."""

    def spelled(argument: str, key: str, value: Any) -> str:
        kind = JSON_TYPES[type(value)]
        known = {"KEY": key, "TYPE": kind, "IS_TEXT": dumped(kind == "string"), "VALUE": raw(value)}
        return re.sub("|".join(known), lambda found: known[found[0]], argument)

    def write(calls: Calls) -> str:
        written = [
            call.replace("NAME", n).replace("ARGUMENTS", "".join(spelled(argument, *pair) for pair in a.items()))
            for n, a in calls
        ]
        return begin + "\n".join(written) + end

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


def gemma(call: str, quote: str) -> Callable[[Calls], str]:
    """Keys without quotes, texts between marks."""

    def spelled(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{k}:{spelled(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(spelled, value)) + "]"
        return f"{quote}{value}{quote}" if isinstance(value, str) else dumped(value)

    return lambda calls: "".join(call.replace("NAME", n).replace("ARGUMENTS", spelled(a)) for n, a in calls)


def elements(mark: str) -> Callable[[Calls], str]:
    """Values as elements in elements, whose tags stand behind ``mark``."""

    def element(name: str, value: Any, head: str = "") -> str:
        parts = (
            value.items()
            if isinstance(value, dict)
            else [("item", v) for v in value]
            if isinstance(value, list)
            else ()
        )
        inner = "".join(element(*part) for part in parts) if isinstance(value, dict | list) else raw(value)
        return f"{mark}<{name}{head}>{inner}{mark}</{name}>"

    def write(calls: Calls) -> str:
        invoked = "".join(element("invoke", arguments, f' name="{name}"') for name, arguments in calls)
        return f"{mark}<tool_call>{invoked}{mark}</tool_call>"

    return write


def dsml(space: str, wrapper: str) -> Callable[[Calls], str]:
    mark = f"｜DSML｜{space}"
    argument = f'<{mark}parameter name="KEY" string="IS_TEXT">VALUE</{mark}parameter>\n'
    call = f'<{mark}invoke name="NAME">\nARGUMENTS</{mark}invoke>\n'
    return pairs(call, argument, f"<{mark}{wrapper}>\n", f"</{mark}{wrapper}>")


PLAMO = "<|plamo:{}:plamo|>".format
JSON_TYPES = {str: "string", int: "number", float: "number", bool: "boolean", dict: "object", list: "array"}
XML = pairs(
    "<tool_call>\n<function=NAME>\nARGUMENTS</function>\n</tool_call>",
    "<parameter=KEY>\nVALUE\n</parameter>\n",
)
INVOKE = '<invoke name="NAME">\nARGUMENTS</invoke>\n'
PARAMETER = '<parameter name="KEY">VALUE</parameter>\n'
GLM = pairs("<tool_call>NAME\nARGUMENTS</tool_call>", "<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n")
V31 = json_pairs("<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGUMENTS<｜tool▁call▁end｜>",
                 "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")  # fmt: skip

SYNTAX: dict[str, Callable[[Calls], str]] = {
    "apertus": lambda calls: f"<|tools_prefix|>{dumped([{n: a} for n, a in calls])}<|tools_suffix|>",
    "deepseek_v3": json_pairs(
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
    ),
    "deepseek_v31": V31,
    "deepseek_v32": dsml("", "function_calls"),
    "deepseek_v4": dsml("", "tool_calls"),
    "deepseek_v41": dsml(" ", "calls"),
    "dots": pairs(f"<dots_function_call>\n{INVOKE}</dots_function_call>", PARAMETER),
    "ernie45": objects("<tool_call>\n", "\n</tool_call>\n"),
    "functiongemma": gemma("<start_function_call>call:NAMEARGUMENTS<end_function_call>", "<escape>"),
    "gemma4": gemma("<|tool_call>call:NAMEARGUMENTS<tool_call|>", '<|"|>'),
    "gigachat3": objects("<|function_call|>", ""),
    "glm45": GLM,
    "glm47": GLM,
    "granite": listed("<|tool_call|>", ""),
    "granite-20b-fc": objects("<function_call> ", ""),
    "granite4": objects("<tool_call>\n", "\n</tool_call>"),
    "hermes": objects("<tool_call>\n", "\n</tool_call>"),
    "hunyuan_a13b": listed("<tool_calls>", "</tool_calls>"),
    "hy_v3": pairs(
        "<tool_call>NAME<tool_sep>\nARGUMENTS</tool_call>",
        "<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n", "<tool_calls>\n", "\n</tool_calls>",
    ),
    "hy_v4": pairs(
        "<tool_call>NAMEARGUMENTS</tool_call>",
        "<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>", "<tool_calls>", "</tool_calls>",
    ),
    "inkling": objects("<|message_model|><|content_invoke_tool_json|>", "<|end_message|>", "args"),
    "internlm": objects("<|action_start|><|plugin|>\n", "<|action_end|>", "parameters"),
    "jamba": listed("<tool_calls>", "</tool_calls>"),
    "k2_horizon": pairs(
        "<ifm|tool_call>NAME\nARGUMENTS</ifm|tool_call>",
        "<ifm|arg_key>KEY</ifm|arg_key>\n<ifm|arg_value>VALUE</ifm|arg_value>\n",
        "<ifm|tool_calls>\n", "\n</ifm|tool_calls>",
    ),
    "kimi_k2": json_pairs(
        "<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>ARGUMENTS<|tool_call_end|>",
        "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>",
    ),
    "kimi_k3": pairs(
        '<|open|>call tool="NAME" index="1"<|sep|>ARGUMENTS<|close|>call<|sep|>',
        '<|open|>argument key="KEY" type="TYPE"<|sep|>VALUE<|close|>argument<|sep|>',
        "<|open|>tools<|sep|>", "<|close|>tools<|sep|>",
    ),
    "lfm2": python("<|tool_call_start|>[", "]<|tool_call_end|>"),
    "ling3": GLM,
    "llama3_json": lambda calls: "; ".join(dumped({"name": n, "parameters": a}) for n, a in calls),
    "llama4_json": lambda calls: "; ".join(dumped({"name": n, "parameters": a}) for n, a in calls),
    "llama4_pythonic": python("[", "]"),
    "longcat": objects("<longcat_tool_call>\n", "\n</longcat_tool_call>"),
    "mimo": pairs(
        "<tool_call>\n<function=NAME>\nARGUMENTS</function>\n</tool_call>", "<parameter=KEY>VALUE</parameter>\n"
    ),
    "minicpm5": pairs('<function name="NAME">ARGUMENTS</function>', '<param name="KEY">VALUE</param>'),
    "minimax_m2": pairs(INVOKE, PARAMETER, "<minimax:tool_call>\n", "</minimax:tool_call>"),
    "minimax_m3": elements("]<]minimax[>["),
    "mistral": json_pairs("[TOOL_CALLS]NAME[ARGS]ARGUMENTS"),
    "muse_glimmer": pairs(
        '<|start|>assistant to=NAME<|message|><atem:function_calls>\n<atem:invoke name="NAME">\nARGUMENTS'
        "</atem:invoke>\n</atem:function_calls><|eom|>",
        '<atem:parameter name="KEY">VALUE</atem:parameter>\n',
    ),
    "olmo3": python("<function_calls>\n", "\n</function_calls>", "\n"),
    "phi4_mini_json": listed("functools", ""),
    "plamo3": json_pairs(
        f"{PLAMO('begin_tool_request')}{PLAMO('begin_tool_name')}NAME{PLAMO('end_tool_name')}"
        f"{PLAMO('begin_tool_arguments')}<|plamo:constrain|>json<|plamo:msg|>ARGUMENTS{PLAMO('end_tool_arguments')}"
        f"{PLAMO('end_tool_request')}", PLAMO("begin_tool_requests"), PLAMO("end_tool_requests"),
    ),
    "poolside_v1": GLM,
    "pythonic": python("[", "]"),
    "qwen3_coder": XML,
    "qwen3_json": objects("<tool_call>\n", "\n</tool_call>"),
    "qwen3_xml": XML,
    "seed_oss": pairs(
        "<seed:tool_call>\n<function=NAME>\nARGUMENTS</function>\n</seed:tool_call>",
        "<parameter=KEY>VALUE</parameter>\n",
    ),
    "step3": pairs(
        '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="NAME">ARGUMENTS</steptml:invoke>'
        "<｜tool_call_end｜>",
        '<steptml:parameter name="KEY">VALUE</steptml:parameter>', "<｜tool_calls_begin｜>", "<｜tool_calls_end｜>",
    ),
    "step3p5": XML,
    "xlam": listed("", ""),
}  # fmt: skip
"""Name of a parser → how its models write calls."""

KINDS: dict[str, Calls] = {
    "text": [("look_up", {"city": "Zürich 結束 🎉", "code": "75001"})],
    "numbers": [("look_up", {"days": 3, "share": -2.5, "metric": True})],
    "nested": [("look_up", {"near": {"x": [1, 2], "y": {"z": "z, w"}}, "hours": [1, 2]})],
    "no arguments": [("tell_time", {})],
    "lines": [("look_up", {"city": "a\nb"})],
    "marks": [("look_up", {"city": "a </tool_call> b"})],
    "two": [("look_up", {"city": "Bern"}), ("tell_time", {})],
}
NUMBERS = {"type": "array", "items": {"type": "integer"}}
SCHEMAS = {
    **{key: {"type": kind} for key, kind in {"city": "string", "code": "string", "days": "integer", "share": "number",
       "metric": "boolean"}.items()},
    "near": {"type": "object", "properties": {
        "x": NUMBERS, "y": {"type": "object", "properties": {"z": {"type": "string"}}},
    }},
    "hours": NUMBERS,
}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": {
        "type": "object", "properties": properties
    }}}
    for name, properties in (("look_up", SCHEMAS), ("tell_time", {}))
]  # fmt: skip


def outcome(name: str) -> str:
    """The kinds of calls that a parser reads otherwise than they were written."""
    tokens = " ".join(SYNTAX[name](calls) for calls in KINDS.values())
    tokens = re.sub(rf"</?({'|'.join(SCHEMAS)}|[xyz]|item)>", "", tokens)  # names of arguments are no tokens
    tokens += "<tool_call></tool_call><seed:tool_call></seed:tool_call><tool_calls></tool_calls>"
    tokens += "<|tool_call|>[TOOL_CALLS][ARGS]<|python_tag|>"
    tokenizer = templates.tokenizer(tokens)
    tokenizer.add_tokens(re.findall(r"</[\w:]+>", tokens), special_tokens=True)
    find = make_vllm_reader(name, tokenizer)
    wrong = []
    for kind, calls in KINDS.items():
        found = find(SYNTAX[name](calls), TOOLS)
        if [c.problem or (c.name, dict(c.arguments)) for c in found] != calls:
            wrong.append(kind)
    if find("It is 3.", TOOLS):
        wrong.append("none")
    return ", ".join(wrong)


OTHERWISE = {
    "glm45": "marks", "glm47": "marks", "granite4": "marks", "hermes": "marks", "hy_v3": "marks", "hy_v4": "marks",
    "ling3": "marks", "poolside_v1": "marks", "qwen3_json": "marks",  # a closing mark within a string
    "phi4_mini_json": "nested",  # a list within arguments
    "step3": "nested, marks",  # objects and lists stay texts
    "functiongemma": "text, numbers, nested",  # texts that are JSON; whatever stands without quotes
    "muse_glimmer": "text",  # texts that are JSON
    "gigachat3": "two", "internlm": "two",  # these models write one call a turn
}  # fmt: skip
"""What vLLM's parsers themselves read otherwise than it was written."""

SILENT = ("cohere_command3", "cohere_command4", "hf", "openai")
"""Names whose parsers read no whole turns."""


@pytest.mark.parametrize("name", SYNTAX)
def test_calls_are_read_as_the_models_write_them(name: str) -> None:
    assert outcome(name) == OTHERWISE.get(name, "")


def test_the_other_parsers_are_refused() -> None:
    assert set(manager.list_registered()) == {*SYNTAX, *SILENT}
    for name in SILENT:
        with pytest.raises(ValueError, match=f"vLLM's tool parser '{name}' does not go with"):
            make_vllm_reader(name, templates.tokenizer())


@pytest.mark.skipif(not templates.names(), reason="needs TRL's chat templates")
def test_what_a_chat_template_writes() -> None:
    """Numbers in lists and objects, which some parsers take from the schema; texts that are JSON."""

    def chosen(name: str) -> Any:
        tokenizer, _ = templates.of(name)
        return make_call_reader(f"vllm:{name}", TurnTemplate(tokenizer=tokenizer, ends=(tokenizer.eos_token_id,)))

    chosen("gemma4")
    with pytest.raises(ValueError, match=r'tool_format is .vllm:muse_glimmer.*which it reads as .*"code": 75001'):
        chosen("muse_glimmer")
