"""Chats of every form, through templates of several families and every file format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

from lgrpo_lightning import PromptDataModule, RewardModel
from lgrpo_lightning.data.encoding import PromptEncoder
from lgrpo_lightning.data.files import PromptFile
from lgrpo_lightning.rewards import ExactMatch, FormatMatch
from lgrpo_lightning.rewards.opening import complete_tags
from lgrpo_lightning.testing import toy_group, toy_tree
from lgrpo_lightning.types import Prompt, Turn
from tests.models import tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "llama": (
        "{{ '<s>' }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
        "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "gemma": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% "
        "endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
        "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "mistral": (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}</s>{% endif %}{% "
        "endfor %}"
    ),
    "thinking": CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"),
}
ASKED = [{"role": "user", "content": "1+1?"}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 1}}}
OTHER = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


def encoder(template: str = CHATML, **options: Any) -> PromptEncoder:
    made = tokenizer()
    made.chat_template = template
    return PromptEncoder(tokenizer=made, max_length=10_000, **options)


def rendered(messages: Any, template: str = CHATML, **options: Any) -> Prompt:
    return encoder(template, **options).encode([{"prompt": messages}], name="t", origin="t.jsonl")[0]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "content", [[{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}], ["1+", "1?"], "1+1?"]
)
def test_parts_are_text(template: str, content: Any) -> None:
    made = rendered([{"role": "user", "content": content}], TEMPLATES[template])
    assert made.text == rendered(ASKED, TEMPLATES[template]).text
    assert made.messages == tuple(ASKED)


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_answer_that_was_begun_is_gone_on_with(template: str) -> None:
    begun = [*ASKED, {"role": "assistant", "content": "The sum is"}]
    text = rendered(begun, TEMPLATES[template], prefill=True).text
    assert text.endswith("The sum is")
    opened = rendered(ASKED, TEMPLATES[template]).text
    assert text.startswith(opened.removesuffix("<think>\n")[:-1])


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "user"}], r"row 0 \(from 0\): message 0 \(user\) has no content"),
        ([{"role": "user", "content": " "}], r"message 0 \(user\) is empty"),
        ([{"role": "user", "content": []}], r"message 0 \(user\) is empty"),
        ([*ASKED, {"role": "user", "content": None}], r"message 1 \(user\) has no content"),
        (
            [*ASKED, {"role": "assistant", "content": None, "tool_calls": []}],
            r"message 1 \(assistant\) has no",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "url": "x"}]}],
            "message 0 has a part of type image",
        ),
        ([{"role": "user", "content": {"text": "x"}}], "the content is .* a dict; it must be text"),
        ([{"role": "user", "content": 3}], "the content is 3, a int; it must be text"),
        (["1+1?"], "message 0 is '1[+]1[?]'; a message is an object"),
        ([{"role": "user", "content": "a\ud800"}], r"column 'prompt' holds '\\ud800' at character 1"),
    ],
)
def test_messages_that_are_refused(messages: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rendered(messages)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("format", ["jsonl", "parquet", "arrow"])
def test_every_format_gives_the_same_prompt(format: str, template: str, tmp_path: Path) -> None:
    """Tables give every struct all fields of its column, with nulls."""
    rows = [
        {
            "prompt": [*ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}, answer],
            "answer": "2",
        }
        for call, answer in (
            (CALL, {"role": "tool", "content": "2", "name": "add"}),
            (OTHER, {"role": "user", "content": "and?"}),
        )
    ]
    path = tmp_path / f"rows.{format}"
    if format == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif format == "parquet":
        pandas.DataFrame(rows).to_parquet(path)
    else:
        datasets.Dataset.from_list(rows).save_to_disk(str(path))
    made = encoder(TEMPLATES[template]).encode(PromptFile(str(path)).rows(), name="t", origin="t")
    wanted = encoder(TEMPLATES[template]).encode(rows, name="t", origin="t")
    assert [(p.text, p.messages) for p in made] == [(p.text, p.messages) for p in wanted]
    assert "null" not in made[0].text


def test_a_tag_that_the_template_opens() -> None:
    prompt = rendered(ASKED, TEMPLATES["thinking"]).text
    assert prompt.endswith("<think>\n")
    texts = ["1+1=2</think> <answer>2</answer>", "<think>x</think> <answer>2</answer>", "<answer>2</answer>"]
    group = toy_group(texts, prompt=prompt, messages=ASKED, columns={"answer": "x"})
    score = FormatMatch(r"<think>.*</think>\s*<answer>.*</answer>").score(group, toy_tree(group))
    assert score.tolist() == [1.0, 1.0, 0.0]
    group = toy_group(["2</answer>", "<answer>2</answer>"], prompt="1+1=<answer>", columns={"answer": "2"})
    begun = [*ASKED, {"role": "assistant", "content": "<think>Let me"}]
    other = toy_group([" see</think> <answer>2</answer>"], prompt="x<think>Let me", messages=begun)
    matched = FormatMatch(r"<think>.*</think>\s*<answer>.*</answer>").score(other, toy_tree(other))
    assert matched.tolist() == [1.0]
    match = ExactMatch(extract=r"<answer>(.*?)</answer>")
    assert match.score(group, toy_tree(group)).outcome.tolist() == [1.0, 1.0]


SOLVED = "<think>1+1 is 2.</think> <answer>2</answer> \\boxed{2}\n```python\nprint(2)\n```"
CONFESSIONS = ["I do not know.", "", "I do not know.</answer>", "</think> I do not know."]


@pytest.mark.parametrize(
    "begun", [SOLVED, "The answer is 2", "<think>2", "<answer>2", "<answer>2</answer", r"\boxed{2}"]
)
@pytest.mark.parametrize(
    "reward",
    [
        ExactMatch(),
        ExactMatch(extract="boxed"),
        ExactMatch(extract=r"<answer>(.*?)</answer>"),
        FormatMatch(r"<answer>2</answer>", match="search"),
        FormatMatch("<think>.*</think>.*<answer>.*", match="search"),
        FormatMatch("2", match="search"),
    ],
    ids=["number", "boxed", "answer", "own answer", "think and answer", "2"],
)
@pytest.mark.parametrize("chat", [True, False])
def test_what_the_prompt_says_earns_nothing(reward: RewardModel, begun: str, chat: bool) -> None:
    messages = [*ASKED, {"role": "assistant", "content": begun}]
    group = toy_group(CONFESSIONS, prompt="1+1?" + begun, messages=messages if chat else None, columns={"answer": "2"})
    assert reward.score_batch([group], [toy_tree(group)])[0].outcome.tolist() == [0.0] * 4


@pytest.mark.parametrize("prompt", ["<think>\n\n</think>\n\n", "<think></think>"])
def test_reasoning_that_the_template_has_ended_is_not_the_policys(prompt: str) -> None:
    group = toy_group(["2", "<think>1</think>2"], prompt="1+1?" + prompt, messages=ASKED)
    assert FormatMatch("<think>.*</think>.*").score(group, toy_tree(group)).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("prompt", "completion", "text"),
    [
        ("<think>\n", "a</think>b", "<think>\na</think>b"),
        ("<think>", "<think>a</think>b", "<think>a</think>b"),
        ("<think>", "ab", "ab"),
        ("<r><answer>", "2</answer></r>", "<r><answer>2</answer></r>"),
        ("<r><answer>", "2</answer>", "<answer>2</answer>"),
        ("<answer>", "2</think>", "2</think>"),
        ("write <think> first:", "a</think>b", "a</think>b"),
    ],
)
def test_a_tag_counts_where_the_completion_closes_it(prompt: str, completion: str, text: str) -> None:
    assert complete_tags(toy_group([completion], prompt=prompt)) == [text]


def test_what_an_environment_says_earns_nothing() -> None:
    (plain,) = toy_group(["17=?42"]).completions
    spans = (("assistant", 0, 4), ("environment", 4, 6))
    turns = tuple(Turn(role=role, start=a, end=b, messages=()) for role, a, b in spans)  # type: ignore[arg-type]
    group = replace(toy_group(["x"], columns={"answer": "42"}), completions=(replace(plain, turns=turns),))
    assert complete_tags(group) == ["17=?"]
    assert ExactMatch().score(group, toy_tree(group)).outcome.tolist() == [0.0]


@pytest.mark.parametrize("column", ["messages", "chosen"])
def test_a_row_with_its_solution_is_refused(column: str, tmp_path: Path) -> None:
    chat = [*ASKED, {"role": "assistant", "content": SOLVED}]
    path = tmp_path / "sft.jsonl"
    path.write_text(json.dumps({column: chat, "answer": "2"}))
    rows = PromptFile(str(path), prompt_column=column).rows()
    with pytest.raises(ValueError, match=r"row 0 .*the last message is the assistant's.*data.prefill: true"):
        encoder().encode(rows, name="t", origin=str(path))
    (prompt,) = encoder(prefill=True).encode(rows, name="t", origin=str(path))
    assert prompt.text.endswith(SOLVED)


@pytest.mark.parametrize("name", ["tokenize", "add_generation_prompt", "continue_final_message", "return_dict"])
def test_arguments_of_the_template_that_are_settled(name: str) -> None:
    with pytest.raises(ValueError, match=rf"data.chat_template_kwargs has {name}, which is settled here"):
        PromptDataModule(train="x.jsonl", chat_template_kwargs={name: True, "enable_thinking": False})


@pytest.mark.parametrize("adds", ["bos", "eos", "both"])
def test_ends_of_a_string(adds: str) -> None:
    """One beginning of sequence, no end between prompt and completion."""
    from tokenizers.processors import TemplateProcessing

    made = tokenizer()
    made.add_special_tokens({"bos_token": "<s>"})
    bos, eos = made.bos_token_id, made.eos_token_id
    pieces = [*(["<s>"] if adds != "eos" else []), "$A", *(["<eos>"] if adds != "bos" else [])]
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single=pieces, special_tokens=[("<s>", bos), ("<eos>", eos)]
    )
    own = made("1+1=", add_special_tokens=False)["input_ids"]
    begins = [bos] if adds != "eos" else []

    def ids(text: str) -> list[int]:
        rows = [{"prompt": text}]
        return list(PromptEncoder(tokenizer=made, max_length=99).encode(rows, name="t", origin="t")[0].token_ids)

    assert ids("1+1=") == [*begins, *own]
    assert ids("<s>1+1=") == [bos, *own]
    assert ids("1+1=<eos>") == [*begins, *own, eos]


def test_a_template_that_cuts_what_was_begun() -> None:
    template = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    begun = [*ASKED, {"role": "assistant", "content": "<think>a</think> b"}]
    with pytest.raises(ValueError, match=r"row 0 .* does not leave the assistant's last message as it is"):
        rendered(begun, template, prefill=True)
