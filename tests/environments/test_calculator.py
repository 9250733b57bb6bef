"""The calculator, and the model that calls it."""

from __future__ import annotations

from typing import Any

import pytest

from lgrpo_lightning.environments.calculator import LONGEST, calculate
from lgrpo_lightning.environments.template import TurnTemplate
from lgrpo_lightning.environments.tool_call_formats import find_tool_calls
from lgrpo_lightning.environments.tool_call_reader import make_call_reader
from lgrpo_lightning.environments.tool_environment import ToolEnvironment
from lgrpo_lightning.types import Prompt
from tools import calling
from tools.make_arithmetic import build_tokenizer


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("41+7+30+5", "83"),
        (" 2 * (3 - 5) ", "-4"),
        ("7/2", "7/2"),
        ("8/2", "4"),
        ("0.1+0.2", "3/10"),
        ("-(+3)", "-3"),
        (".5+1.", "3/2"),
        ("9" * 60 + "+1", "1" + "0" * 60),
    ],
)
def test_it_works_out(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "is no expression"),
        ("1+", "is no expression"),
        ("1+2)", "is no expression"),
        ("07+1", "is no expression"),
        ("1\0", "is no expression"),
        ("__import__('os').getcwd()", "something else"),
        ("a+1", "something else"),
        ("2**999", "something else"),
        ("1e999999999", "something else"),
        ("1j", "something else"),
        ("True+1", "something else"),
        ("1_0", "something else"),
        ("0x10", "something else"),
        ("1<2", "something else"),
        ("1//2", "something else"),
        ("~1", "something else"),
        ("1/(2-2)", "divides by zero"),
        ("1" * (LONGEST + 1), "at most 200"),
        ("(" * 200, "is no expression"),
    ],
)
def test_what_it_refuses(expression: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        calculate(expression)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = build_tokenizer()
    made.chat_template = calling.TEMPLATE
    return made


def conversation(terms: list[int]) -> list[dict[str, str]]:
    call, said, answer = calling.called(terms)
    return [
        {"role": "user", "content": f"{'+'.join(map(str, terms))}="},
        {"role": "assistant", "content": call},
        {"role": "tool", "name": "calculate", "content": said.removesuffix("\n")},
        {"role": "assistant", "content": answer},
    ]


def test_examples_are_what_the_template_writes(tokenizer: Any) -> None:
    terms = [41, 7, 30]
    ids, labels = calling.example(tokenizer, terms)
    text = calling.TOOLS + "41+7+30=" + tokenizer.decode(ids)
    assert text == tokenizer.apply_chat_template(conversation(terms), tools=[calculate], tokenize=False)
    spoken = [i for i, label in zip(ids, labels, strict=True) if label != -100]
    assert tokenizer.decode(spoken) == '[calculate(expression="41+7+30")]<eos>=78\n<eos>'


def test_examples_are_what_a_run_makes_of_the_turns(tokenizer: Any) -> None:
    """Prompt, call, and what stands between call and answer, as the sampler has them."""
    terms = [41, 7, 30]
    template = TurnTemplate(tokenizer=tokenizer, ends=(tokenizer.eos_token_id,))
    chat = conversation(terms)
    prompt = Prompt(uid="0", text="", token_ids=(), messages=(chat[0],), columns={})
    assert template.make_prompt(prompt, None, [calculate]).text == calling.TOOLS + "41+7+30="
    environment = ToolEnvironment([calculate])
    calls = make_call_reader("auto", template)(template.tokenise(chat[1]["content"]), [], [calculate])
    said = environment.respond([{**chat[1], "tool_calls": [call.message for call in calls]}])
    assert said == chat[2:3]
    between = template.render_between(said, tokenizer.eos_token_id, chat=True)
    assert tokenizer.decode(between) == calling.called(terms)[1]
    assert environment.respond(chat[3:]) is None
    assert environment.metrics == {"tools/calls": 1.0, "tools/failures": 0.0}


def test_calls_of_a_message_are_written_as_the_model_writes_them(tokenizer: Any) -> None:
    call, *_ = calling.called([1, 2])
    found = find_tool_calls(call, "pythonic")
    assert [(c.name, dict(c.arguments)) for c in found] == [("calculate", {"expression": "1+2"})]
    function = {"name": found[0].name, "arguments": dict(found[0].arguments)}
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    assert tokenizer.apply_chat_template([message], tokenize=False) == f"{call}<eos>"
