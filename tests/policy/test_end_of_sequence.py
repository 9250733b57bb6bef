"""Which tokens end a completion: the model's, the tokenizer's, and what the chat template closes a turn with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.policy.end_of_sequence import (
    describe_ends,
    find_end_tokens,
    find_turn_end,
    list_eos_token_ids,
)
from tests.models import make_model, tokenizer

SPECIAL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "</s>",
    "<|end|>",
    "<|endoftext|>",
    "<|x|>",
)
FIRST = 44
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = "{% for m in messages %}<|x|>{{ m.role }}\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
GEMMA = "{% for m in messages %}<|x|>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[i] {{ m.content }} [e]{% else %} {{ m.content }}</s>"
    "{% endif %}{% endfor %}"
)
PHI = "{% for m in messages %}<|x|>{{ m.content }}<|end|>\n{% endfor %}<|endoftext|>"
NEWLINE = "{% for m in messages %}{{ m.content }}\n<|im_end|>{% endfor %}"
THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|x|>a\n\n{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
PARTS = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}"
    "<|end|>{% endfor %}"
)
PLAIN = "{% for m in messages %}a: {{ m.content }}\n\n{% endfor %}"
HEADED = "{% for m in messages %}{{ m.content }}\n### next <|x|>{% endfor %}"
REFUSING = "{{ raise_exception('only tool calls') }}"
SILENT = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}<|x|>{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "token"),
    [
        (CHATML, "<|im_end|>"),
        (LLAMA3, "<|eot_id|>"),
        (GEMMA, "<end_of_turn>"),
        (MISTRAL, "</s>"),
        (PHI, "<|end|>"),
        (NEWLINE, "<|im_end|>"),
        (THINKING, "<|im_end|>"),
        (PARTS, "<|end|>"),
        (PLAIN, None),
        (HEADED, None),
        (REFUSING, None),
        (SILENT, None),
        (None, None),
        ({"default": CHATML, "tool_use": GEMMA}, "<|im_end|>"),
        ({"tool_use": GEMMA}, None),
    ],
)
def test_what_closes_an_assistants_turn(template: Any, token: str | None) -> None:
    tok = tokenizer(*SPECIAL)
    tok.chat_template = template
    assert find_turn_end(tok) == (None if token is None else FIRST + SPECIAL.index(token))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose generation config lists ``<eos>`` while its template ends turns with ``<|im_end|>``."""
    return make_model("llama", tmp_path, special=SPECIAL, chat_template=CHATML)


def found(folder: Path, **options: Any) -> dict[int, tuple[str, ...]]:
    config = PolicyConfig(path=str(folder), **options)
    tok = tokenizer(*SPECIAL)
    tok.chat_template = CHATML
    return find_end_tokens(config, tok)


def test_the_union_is_taken_and_said(folder: Path) -> None:
    ends = found(folder)
    assert ends == {1: ("generation config", "tokenizer"), FIRST + 1: ("chat template",)}
    assert describe_ends(ends, tokenizer(*SPECIAL)) == (
        "Completions end at <eos> (1: generation config, tokenizer), <|im_end|> (45: chat template)."
    )


def test_the_configuration_adds_and_replaces(folder: Path) -> None:
    assert set(found(folder, extra_eos_tokens=["<end_of_turn>", 5])) == {1, FIRST + 1, FIRST + 3, 5}
    assert found(folder, eos_tokens=["<|eot_id|>", 7]) == {
        FIRST + 2: ("policy.eos_tokens",),
        7: ("policy.eos_tokens",),
    }
    assert set(found(folder, eos_tokens=["a"], extra_eos_tokens=["b"])) == {18, 19}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"extra_eos_tokens": ["<|done|>"]}, r"policy.extra_eos_tokens has '<\|done\|>', which is no token"),
        ({"eos_tokens": ["ab"]}, r"policy.eos_tokens has 'ab'.*\['a', 'b'\].*sampling.stop"),
        ({"eos_tokens": [52]}, "policy.eos_tokens has 52; the ids of the model go from 0 to 51"),
        ({"eos_tokens": [-1]}, "policy.eos_tokens has -1"),
        ({"eos_tokens": []}, "policy.eos_tokens is empty"),
        ({"eos_tokens": "<eos>"}, r"policy.eos_tokens is the string '<eos>'.*\['<eos>'\]"),
        ({"extra_eos_tokens": 5}, "policy.extra_eos_tokens is 5"),
        ({"extra_eos_tokens": [True]}, "policy.extra_eos_tokens has True"),
    ],
)
def test_what_is_no_token_is_refused(folder: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        found(folder, **options)


def test_without_any_there_is_nothing_to_end_at(folder: Path) -> None:
    make_model("llama", folder, special=SPECIAL, eos_token_id=None)
    tok = tokenizer(*SPECIAL)
    tok.eos_token = None
    tok.pad_token = "<pad>"
    with pytest.raises(ValueError, match=r"no end-of-sequence token.*policy\.eos_tokens"):
        list_eos_token_ids(PolicyConfig(path=str(folder)), tok)
