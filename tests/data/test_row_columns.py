"""Tool calls, tools and arguments of the chat template that rows bring, through every template that TRL ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trl

from lgrpo_lightning.data.encoding import PromptEncoder
from lgrpo_lightning.data.files import PromptFile
from lgrpo_lightning.environments.template import TemplateError, TurnTemplate
from lgrpo_lightning.types import Prompt
from tests.data.test_chats import ASKED, CHATML, rendered
from tests.models import tokenizer

TEMPLATES = {path.stem: path for path in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")}
QUICK = ("deepseek_r1_distill", "deepseekv3", "gemma4_v5", "gptoss", "llama3", "qwen2_5", "qwen3_6")
ARGUMENTS = {"city": 'Zürich "HB"', "days": [1, 2], "unit": {"name": "°C"}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Where."}},
            "required": ["city"],
        },
    },
}
SHOWS = CHATML + "{% if tools %}{{ tools | tojson }}{% endif %}{% if loud %}loud{% endif %}"


def history(arguments: Any) -> list[dict[str, Any]]:
    call = {"type": "function", "id": "a1b2c3d4e", "function": {"name": "weather", "arguments": arguments}}
    return [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "weather", "tool_call_id": "a1b2c3d4e", "content": "sun"},
        {"role": "user", "content": "and?"},
    ]


def encoded(row: dict[str, Any], template: str = SHOWS, **options: Any) -> Prompt:
    made = tokenizer()
    made.chat_template = template
    encoder = PromptEncoder(tokenizer=made, max_length=100_000, **options)
    return encoder.encode([row], name="t", origin="t.jsonl")[0]


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in sorted(TEMPLATES)]
)
def test_arguments_as_text_are_shown_as_objects_are(name: str) -> None:
    """Both forms give the same text, or a template that leaves calls out is refused."""
    template = TEMPLATES[name].read_text()
    forms = (ARGUMENTS, json.dumps(ARGUMENTS), json.dumps(ARGUMENTS, ensure_ascii=False, indent=1))
    if "tool_calls" not in template:
        with pytest.raises(ValueError, match=r"t.jsonl, row 0 \(from 0\): the chat template of"):
            rendered(history(ARGUMENTS), template)
        return
    texts = {rendered(history(arguments), template).text for arguments in forms}
    assert len(texts) == 1
    assert "Zürich" in texts.pop().replace("\\u00fc", "ü")


def test_a_row_that_brings_its_own_arguments_of_the_template() -> None:
    plain = encoded({"prompt": ASKED}).text
    for tools in ([TOOL], json.dumps([TOOL]), [json.dumps(TOOL)], [TOOL | {"strict": None}]):
        assert encoded({"prompt": ASKED, "tools": tools}).text == plain + json.dumps([TOOL], ensure_ascii=False)
    as_text = json.loads(json.dumps(TOOL))
    as_text["function"]["parameters"] = json.dumps(TOOL["function"]["parameters"])
    assert encoded({"prompt": ASKED, "tools": [as_text]}).text == encoded({"prompt": ASKED, "tools": [TOOL]}).text
    for kwargs in ({"loud": True}, '{"loud": true}', {"loud": True, "other": None}):
        assert encoded({"prompt": ASKED, "chat_template_kwargs": kwargs}).text == plain + "loud"
    both = encoded({"prompt": ASKED, "chat_template_kwargs": {"loud": False}}, chat_template_kwargs={"loud": True})
    assert both.text == plain
    for empty in (
        {"tools": None},
        {"tools": []},
        {"chat_template_kwargs": None},
        {"images": []},
        {"image": None},
    ):
        assert encoded({"prompt": ASKED, **empty}).text == plain
        assert encoded({"prompt": "1+1=", **empty}).text == "1+1="


REFUSED = {
    "tools for text": (
        {"prompt": "1+1=", "tools": [TOOL]},
        "column 'tools' or .* and the prompt is plain text",
    ),
    "kwargs for text": (
        {"prompt": "1+1=", "chat_template_kwargs": {"loud": True}},
        "column 'tools' or 'chat_template_kwargs' is for the chat template, and the prompt is plain text",
    ),
    "names of tools": (
        {"prompt": ASKED, "tools": ["weather"]},
        r"column 'tools' is \['weather'\]; it must be",
    ),
    "text": (
        {"prompt": ASKED, "tools": "weather"},
        "column 'tools' is 'weather'; it must be a list of objects",
    ),
    "kwargs": (
        {"prompt": ASKED, "chat_template_kwargs": "x"},
        "'chat_template_kwargs' is 'x'; it must be an obj",
    ),
    "settled": (
        {"prompt": ASKED, "chat_template_kwargs": {"tokenize": True}},
        r"row 0 \(from 0\): column 'chat_template_kwargs' has tokenize, which is settled here",
    ),
    "images": (
        {"prompt": ASKED, "images": [b"x"]},
        "column 'images' holds a list, and models read text only",
    ),
    "image": ({"prompt": ASKED, "image": {"bytes": b"x"}}, "column 'image' holds a dict"),
    "broken arguments": (
        {"prompt": history('{"a": ')},
        r"message 1, tool call 0 \(weather\) has the arguments",
    ),
    "arguments that are a list": (
        {"prompt": history([1])},
        r"\(weather\) has the arguments \[1\]; they must be",
    ),
    "arguments in text twice": ({"prompt": history(json.dumps("{}"))}, r"\(weather\) has the arguments"),
    "calls that are none": (
        {"prompt": [*ASKED, {"role": "assistant", "content": "x", "tool_calls": "add(1)"}, *ASKED]},
        "message 1: tool_calls is 'add\\(1\\)'; it must be a list of objects",
    ),
    "a call without a name": (
        {
            "prompt": [
                *ASKED,
                {"role": "assistant", "content": "x", "tool_calls": [{"arguments": {}}]},
                *ASKED,
            ]
        },
        "message 1, tool call 0 is .* which has no name",
    ),
    "function_call": (
        {"prompt": [*ASKED, {"role": "assistant", "content": "", "function_call": {"name": "a"}}, *ASKED]},
        "message 1 has function_call, which no chat template shows",
    ),
    "messages of ShareGPT as text": (
        {"prompt": json.dumps([{"from": "human", "value": "1+1?"}])},
        "message 0 is .*; a message is an object with a role",
    ),
    "messages as NumPy prints them": (
        {"prompt": "[{'role': 'system', 'content': 'x'}\n {'role': 'user', 'content': 'y'}]"},
        "looks like a list of messages and cannot be read as one",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_are_refused(case: str) -> None:
    row, said = REFUSED[case]
    with pytest.raises(ValueError, match=said):
        encoded(row)


def test_a_template_without_tools_is_refused() -> None:
    with pytest.raises(ValueError, match="does not show the tools of column 'tools'"):
        encoded({"prompt": ASKED, "tools": [TOOL]}, CHATML)


@pytest.mark.parametrize("text", ["", None, "{}"])
def test_a_call_without_arguments(text: Any) -> None:
    assert rendered(history(text)).text == rendered(history({})).text


def test_nulls_in_arguments_as_text_stay() -> None:
    assert '{"a": null}' in rendered(history('{"a": null}')).text


def test_calls_as_text() -> None:
    call = {"name": "add", "arguments": {"a": 1}}
    chats = [
        [*ASKED, {"role": "assistant", "content": "", "tool_calls": c}, *ASKED] for c in ([call], json.dumps([call]))
    ]
    assert rendered(chats[0]).text == rendered(chats[1]).text


@pytest.mark.parametrize("written", [json.dumps, str, lambda m: " " + json.dumps(m, indent=2) + "\n"])
def test_messages_as_text_are_messages(written: Any) -> None:
    chat = [{"role": "system", "content": "It's short."}, *ASKED]
    assert encoded({"prompt": written(chat)}).messages == tuple(chat)
    with pytest.raises(ValueError, match="the prompt is a list of messages, but chat is false"):
        encoded({"prompt": written(chat)}, chat=False)


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1}]', "[1, 2]", '{"role": "user"}', '[{"from": "a", "to": "b"}]', "[{x}]",
        'Say [{"role": "user", "content": "x"}]', '[{"role": "user", "content": "x"}] is what?', "[{" * 9 + "}]",
    ],
)  # fmt: skip
def test_other_text_stays_text(text: str) -> None:
    made = encoded({"prompt": text})
    assert (made.text, made.messages) == (text, None)


def test_messages_of_a_csv_file(tmp_path: Path) -> None:
    import pandas

    pandas.DataFrame([{"prompt": ASKED, "answer": 2}]).to_csv(tmp_path / "p.csv", index=False)
    made = encoded(dict(PromptFile(str(tmp_path / "p.csv")).rows()[0]))
    assert made.messages == tuple(ASKED)


def test_columns_reach_the_turns_of_an_environment() -> None:
    made = tokenizer()
    made.chat_template = SHOWS
    template = TurnTemplate(tokenizer=made, ends=(made.eos_token_id,))
    prompt = encoded({"prompt": ASKED, "tools": [TOOL], "chat_template_kwargs": {"loud": True}})
    shown = template.make_prompt(prompt, "More.", ())
    assert shown.text == prompt.text.replace("1+1?", "1+1?More.")
    said = [{"role": "user", "content": "and?"}]
    assert made.decode(template.for_prompt(prompt).render_between(said, None, chat=True)).endswith("loud")
    assert not made.decode(template.render_between(said, None, chat=True)).endswith("loud")
    with pytest.raises(TemplateError, match="has a column 'tools', and the environment offers its own"):
        template.make_prompt(prompt, None, [TOOL])


def test_what_stands_between_turns_where_calls_are_joined_to_text() -> None:
    """DeepSeek's template."""
    made = tokenizer()
    made.chat_template = TEMPLATES["deepseekv3"].read_text()
    template = TurnTemplate(tokenizer=made, ends=(made.eos_token_id,))
    said = [{"role": "tool", "name": "weather", "content": "sun"}]
    assert "sun" in made.decode(template.render_between(said, None, chat=True))
