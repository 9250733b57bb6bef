"""What stands between two turns, for every chat template that TRL ships."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from jinja2 import UndefinedError

from lgrpo_lightning.environments.template import TemplateError, TurnTemplate
from lgrpo_lightning.types import Prompt
from tests.environments import templates
from tests.environments.partners import multiply

USER = [{"role": "user", "content": "Hello."}]
ANSWER = {"role": "assistant", "content": "ANSWER"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "multiply", "arguments": {"a": 3, "b": 4}}}],
}
LATER = {
    "user": [{"role": "user", "content": "And then?"}],
    "tool": [{"role": "tool", "name": "multiply", "content": "12"}],
    "two tools": [{"role": "tool", "name": "multiply", "content": "12"}] * 2,
}


def rendered(tokenizer: Any, messages: Any, **options: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("name", templates.names())
def test_it_is_what_the_template_writes(name: str, later: str) -> None:
    """Prompt, turn and what stands between are the conversation as the template writes it anew."""
    try:
        tokenizer, end = templates.of(name)
    except UndefinedError:
        pytest.skip("the template is for messages of parts")
    turn = ANSWER if later == "user" else CALL
    try:
        whole = rendered(tokenizer, [*USER, turn, *LATER[later]], add_generation_prompt=True)
        closed = rendered(tokenizer, [*USER, turn])
    except Exception as error:
        pytest.skip(f"the template refuses it: {str(error)[:80]}")
    mark = "ANSWER" if later == "user" else "4"
    if mark not in whole:
        pytest.skip("the template shows no calls")
    template = TurnTemplate(tokenizer=tokenizer, ends=(tokenizer.eos_token_id,))
    between = tokenizer.decode(template.render_between(LATER[later], tokenizer.eos_token_id, chat=True))
    assert whole.endswith(between), (whole, between)
    before = whole[: len(whole) - len(between)]
    assert mark in before
    assert (closed[closed.rindex(mark) :] + end).startswith(before[before.rindex(mark) :])
    cut = tokenizer.decode(template.render_between(LATER[later], 5, chat=True))
    assert cut == (end if before.endswith(end) else "") + between


def test_a_turn_that_another_token_ended_is_not_ended_again() -> None:
    tokenizer = templates.tokenizer()
    other = tokenizer.convert_tokens_to_ids("<s>")
    template = TurnTemplate(tokenizer=tokenizer, ends=(tokenizer.eos_token_id, other))
    after = "\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n"
    for last, expected in ((tokenizer.eos_token_id, after), (other, after), (5, "<|im_end|>" + after)):
        assert tokenizer.decode(template.render_between(LATER["user"], last, chat=True)) == expected


def test_a_turn_ends_at_the_first_of_two_tokens_that_end_turns() -> None:
    tokenizer = deepcopy(templates.tokenizer())
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|im_end|><s>{% endfor %}"
    ends = (tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<s>"))
    template = TurnTemplate(tokenizer=tokenizer, ends=ends)
    after = "And then?<|im_end|><s>"
    for last, expected in ((ends[0], "<s>" + after), (5, "<|im_end|><s>" + after)):
        assert tokenizer.decode(template.render_between(LATER["user"], last, chat=True)) == expected


def test_most_templates_go() -> None:
    """All that take messages of text."""
    if not templates.names():
        pytest.skip("TRL, which ships the templates, is not installed")
    refused = []
    for name in templates.names():
        try:
            tokenizer, _ = templates.of(name)
            template = TurnTemplate(tokenizer=tokenizer, ends=(tokenizer.eos_token_id,))
            template.render_between(LATER["user"], None, chat=True)
        except (TemplateError, UndefinedError):
            refused.append(name)
    assert refused == ["idefics3", "llava_next", "smolvlm"]  # for messages of parts


def test_the_prompt_shows_tools_and_what_the_environment_says() -> None:
    tokenizer = templates.tokenizer()
    template = TurnTemplate(tokenizer=tokenizer, ends=(tokenizer.eos_token_id,))
    prompt = Prompt(uid="a", text="?", token_ids=(1,), messages=tuple(USER))
    shown = template.make_prompt(prompt, " It is 3.", [multiply])
    assert "Multiplies two integers." in shown.text
    assert "Hello. It is 3.<|im_end|>" in shown.text
    assert tokenizer.decode(shown.token_ids) == shown.text
    assert template.make_prompt(prompt, None, []) is prompt


def test_prompts_that_cannot_show_tools_are_refused() -> None:
    tokenizer = templates.tokenizer()
    template = TurnTemplate(tokenizer=tokenizer, ends=(tokenizer.eos_token_id,))
    with pytest.raises(TemplateError, match=r"Set data\.chat: true"):
        template.make_prompt(Prompt(uid="a", text="?", token_ids=(1,)), None, [multiply])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(TemplateError, match="does not show tools"):
        template.make_prompt(Prompt(uid="a", text="?", token_ids=(1,), messages=tuple(USER)), None, [multiply])
