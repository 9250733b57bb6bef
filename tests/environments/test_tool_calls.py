"""Tool calls as models write them: recorded responses, and every chat template that TRL ships."""

from __future__ import annotations

import re
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from lgrpo_lightning.environments.template import TurnTemplate
from lgrpo_lightning.environments.tool_call import ToolCall
from lgrpo_lightning.environments.tool_call_formats import FORMATS, find_tool_calls
from lgrpo_lightning.environments.tool_call_probes import PROBES, write_probes
from lgrpo_lightning.environments.tool_call_reader import CallReader, make_call_reader
from tests.environments import templates
from tests.environments.responses import NAMES, RESPONSES


@pytest.mark.parametrize("format", FORMATS)
def test_calls_in_recorded_responses(format: str) -> None:
    mine = [(text, expected) for name, text, expected in RESPONSES if name == format]
    assert len(mine) >= 5
    for text, expected in mine:
        found = find_tool_calls(text, format, NAMES)
        assert [None if c.problem else (c.name, dict(c.arguments)) for c in found] == expected, text


needs_trl = pytest.mark.skipif(not templates.names(), reason="TRL, which ships the templates, is not installed")

FORMAT_OF = {
    "deepseek_r1_distill": "deepseek", "deepseekv3": "deepseek", "diffusion_gemma": "gemma4",
    "gemma4": "gemma4", "gemma4_v2": "gemma4", "gemma4_v3": "gemma4", "gemma4_v4": "gemma4", "gemma4_v5": "gemma4",
    "glm4moe": "glm", "gptoss": "harmony", "lfm2_2_5": "pythonic", "lfm2_2_5_v2": "pythonic",
    "lfm2_2_5_vl": "pythonic", "lfm2_v2": "pythonic", "llama3_1": "llama3", "llama3_2": "llama3",
    "muse_glimmer": "invoke", "nemotron_3_5_lightning": "qwen3_coder", "nemotron_3_nano": "qwen3_coder",
    "nemotron_3_super": "qwen3_coder", "nemotron_3_ultra": "qwen3_coder", "qwen2_5": "hermes", "qwen3": "hermes",
    "qwen3_5_nothink": "qwen3_coder", "qwen3_5_think": "qwen3_coder", "qwen3_6": "qwen3_coder",
    "qwen3_8": "qwen3_coder", "qwen3_instruct_2507": "hermes", "qwen3_vl": "hermes",
}  # fmt: skip
"""Templates that write calls → their format."""

SILENT = [
    "cohere", "cohere2", "gemma", "gemma3", "idefics3", "lfm2", "llama3", "llava_next", "phi3", "phi3_5", "qwen2_5_vl",
    "smolvlm",
]  # fmt: skip
"""Templates that leave calls out, or take messages of parts only."""

UNQUOTED = ("lfm2_2_5", "lfm2_2_5_v2")
"""They write quotes within strings as they are, so that what they write cannot be read."""


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


CALLS: dict[str, tuple[ToolCall, ...]] = {
    "text": (call("look_up", city="Zürich 結束 🎉", why="rain, (or) [snow]; {a: 1} = #1"),),
    "quotes": (call("look_up", why="it \"may\" rain, 'now' \\ C:\\new"),),
    "numbers": (call("look_up", a=3, b=-2.5, c=True, d=None, e="75001", f=0, g=False, h=1e-7),),
    "nested": (
        call(
            "look_up",
            o={"x": [1, {"y": "z, (w) ]}", "t": True}], "n": {}, "none": None},
            l=[],
            m=[[1], ["a"]],
        ),
    ),
    "no arguments": (call("tell_time"),),
    "lines": (call("run_code", code="def f(x):\n    return x\n\n\nprint(1)\n"),),
    "edges": (call("run_code", code="  a\t", b="", c=" "),),
    "marks": (call("run_code", code="a </tool_call> </parameter> b <tool_call> </arg_value> </function> [/] ```"),),
    "reasoning": (call("run_code", code="<think> a </think>"),),
    "two": (call("tell_time"), call("look_up", city="Bern")),
}

TYPES = {"a": "integer", "b": "number", "c": "boolean", "d": "integer", "e": "string", "f": "integer", "g": "boolean",
         "h": "number", "o": "object", "l": "array", "m": "array"}  # fmt: skip


def tools(calls: tuple[ToolCall, ...]) -> list[dict[str, Any]]:
    """The tools that ``calls`` call, whose texts are texts."""
    return [
        {"type": "function", "function": {"name": c.name, "description": "A tool.", "parameters": {
            "type": "object",
            "properties": {k: {"type": "string" if isinstance(v, str) else TYPES[k]} for k, v in c.arguments.items()},
        }}}
        for c in calls
    ]  # fmt: skip


@cache
def turn_template(name: str) -> TurnTemplate:
    tokenizer, _ = templates.of(name)
    return TurnTemplate(tokenizer=tokenizer, ends=(tokenizer.eos_token_id,))


@cache
def chosen(name: str, format: str = "auto") -> CallReader:
    return make_call_reader(format, turn_template(name))


def read(reader: CallReader, template: TurnTemplate, prompt: str, turn: str, offered: Any = ()) -> list[Any]:
    found = reader(template.tokenise(turn), template.tokenise(prompt), offered)
    return [c.problem or (c.name, dict(c.arguments)) for c in found]


@needs_trl
def test_every_template_is_claimed_or_refused() -> None:
    assert sorted([*FORMAT_OF, *SILENT]) == templates.names()


@needs_trl
@pytest.mark.parametrize("name", FORMAT_OF)
def test_what_a_template_writes_is_read_again(name: str) -> None:
    """Every kind of value, exactly; by the format that is found for the template."""
    template, seen = turn_template(name), []
    for kind, calls in CALLS.items():
        for _, prompt, turn in write_probes(template, [calls]):
            seen.append(kind)
            found = read(chosen(name), template, prompt, turn, tools(calls))
            expected = [(c.name, dict(c.arguments)) for c in calls]
            if kind == "quotes" and name in UNQUOTED:
                assert found[0].startswith("not a call")
                continue
            assert found == expected, (kind, turn)
            assert repr(found) == repr(expected) or "gemma" in name  # 1 is not True; Gemma's arguments are sorted
    left = {"two"} if name in ("llama3_1", "llama3_2", "gptoss") else set()
    assert set(CALLS) - set(seen) == left  # one call a turn
    assert read(chosen(name), template, prompt, "It is 3.", tools(calls)) == []


@needs_trl
@pytest.mark.parametrize("name", ["qwen3", "gptoss", "glm4moe", "llama3_1"])
def test_the_format_is_the_one_that_reads_it(name: str) -> None:
    """Any other is refused; all templates are tried among the slow tests."""
    _others_are_refused(name)


@needs_trl
@pytest.mark.slow
@pytest.mark.parametrize("name", FORMAT_OF)
def test_the_format_of_every_template(name: str) -> None:
    _others_are_refused(name)


def _others_are_refused(name: str) -> None:
    own = {FORMAT_OF[name], *({"json"} if FORMAT_OF[name] == "llama3" else ())}
    for format in FORMATS:
        if format in own:
            chosen(name, format)
        else:
            with pytest.raises(ValueError, match=f"tool_format is '{format}', and the chat template writes calls as"):
                chosen(name, format)


@needs_trl
@pytest.mark.parametrize("name", SILENT)
def test_a_template_that_writes_no_calls_is_refused_unless_a_format_is_named(name: str) -> None:
    try:
        template = turn_template(name)
    except UndefinedError:
        pytest.skip("the template is for messages of parts")
    with pytest.raises(ValueError, match=r"does not show how calls are written.*hermes, qwen3_coder, glm"):
        make_call_reader("auto", template)
    found = read(make_call_reader("json", template), template, "", '{"name": "now", "arguments": {}}')
    assert found == [("now", {})]


ODD = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}{% for c in m.tool_calls or [] %}"
    "CALL {{ c.function.name }} {{ c.function.arguments | tojson }} DONE{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RESPONSE = {
    "start_anchor": "<|assistant|>",
    "fields": {
        "tool_calls": {
            "open_pattern": r"CALL (?P<name>\w+) ", "close": " DONE", "repeats": True, "content": "json",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": "<|im_end|>", "content": "text"},
    },
}  # fmt: skip


def test_a_tokenizer_that_parses_its_own_responses_does_so() -> None:
    tokenizer = templates.tokenizer(ODD)
    template = TurnTemplate(tokenizer=tokenizer, ends=(tokenizer.eos_token_id,))
    with pytest.raises(ValueError, match=r"no format reads the calls that the chat template writes: 'CALL probe_"):
        make_call_reader("auto", template)
    with pytest.raises(ValueError, match="the tokenizer has no response_template"):
        make_call_reader("transformers", template)
    tokenizer.response_template = RESPONSE
    for format in ("auto", "transformers"):
        reader = make_call_reader(format, template)
        said = 'Well. CALL add {"a": 1} DONECALL now {} DONE<|im_end|>'
        assert read(reader, template, "<|assistant|>", said) == [("add", {"a": 1}), ("now", {})]
        assert read(reader, template, "<|assistant|>", "It is 3.<|im_end|>") == []
        assert "could not parse" in read(reader, template, "<|assistant|>", "CALL add {a DONE<|im_end|>")[0]


def test_a_response_template_that_misreads_is_left_for_one_that_does_not() -> None:
    tokenizer = templates.tokenizer()
    tokenizer.response_template = RESPONSE
    template = TurnTemplate(tokenizer=tokenizer, ends=(tokenizer.eos_token_id,))
    said = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    assert read(make_call_reader("auto", template), template, "", said) == [("now", {})]
    with pytest.raises(ValueError, match="tool_format is 'transformers', and the chat template writes calls as"):
        make_call_reader("transformers", template)


@pytest.mark.parametrize("name", FORMAT_OF)
def test_calls_are_those_of_trls_response_templates(name: str) -> None:
    """Where transformers reads what the chat template writes, this library reads the same."""
    utils = pytest.importorskip("trl.chat_template_utils")
    tokenizer, _ = templates.of(name)
    try:
        utils.add_response_schema(tokenizer)
    except ValueError:
        pytest.skip("TRL has no response template for it")
    template = TurnTemplate(tokenizer=tokenizer, ends=(tokenizer.eos_token_id,))
    for calls, prompt, turn in write_probes(template, [PROBES[1], CALLS["no arguments"]]):
        theirs = tokenizer.parse_response(turn, prefix=prompt, tools=tools(calls)).get("tool_calls") or []
        if theirs:
            plain = [(c["function"]["name"], c["function"]["arguments"] or {}) for c in theirs]
            assert read(chosen(name), template, prompt, turn, tools(calls)) == plain


@needs_trl
@pytest.mark.parametrize("name", ["qwen3_5_think", "nemotron_3_nano", "deepseek_r1_distill"])
def test_reasoning_that_the_prompt_begins_is_not_read(name: str) -> None:
    template = turn_template(name)
    ((_, _, turn),) = write_probes(template, [CALLS["two"]])
    calls = turn.rpartition("</think>")[2]
    prompt = template.render([{"role": "user", "content": "Why?"}], add_generation_prompt=True)
    assert "<think>" in prompt
    assert read(chosen(name), template, prompt, f"I could say {calls} and") == []
    assert read(chosen(name), template, prompt, f"I could say {calls}.</think>It is 3.") == []
    assert len(read(chosen(name), template, prompt, f"I say {calls}.</think>{calls}")) == 2


@needs_trl
def test_a_question_about_tags_does_not_begin_reasoning() -> None:
    template = turn_template("qwen3")
    asked = [{"role": "user", "content": "Think in <think> tags."}]
    prompt = template.render(asked, add_generation_prompt=True)
    said = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert read(chosen("qwen3"), template, prompt, said) == [("now", {})]


MARKS = (
    "<tool_call>", "</tool_call>", "<tool_call>{", "[TOOL_CALLS]", "<|tool_call>call:a{", "[a(b=", "{", "[", "<think>",
    "<parameter=a>", "<tool_call>\n<function=a>\n<parameter=a>\n", '{"name": "', "```json\n",
)  # fmt: skip


def test_the_docs_have_a_row_for_each_format() -> None:
    page = (Path(__file__).parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w:]+)` \|", page, re.MULTILINE)
    assert listed == ["tool_format", "transformers", *FORMATS, "vllm:NAME"]  # the header, then a row each


@pytest.mark.parametrize("format", FORMATS)
def test_many_marks_take_no_time(format: str) -> None:
    began = time.monotonic()
    for mark in MARKS:
        find_tool_calls(mark * 1000, format, NAMES)
    assert time.monotonic() - began < 20
