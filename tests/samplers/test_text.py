"""Where tokens end in the text, with every type of decoder, against decoding every prefix."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from lgrpo_lightning.samplers.text import decode
from tests.models import tokenizer
from tests.samplers.decoders import RECIPES, llama, texts, tokenizer_of


def test_characters() -> None:
    tok = tokenizer()
    ids = tok("12+7=\n19")["input_ids"]
    text, ends = decode(tok, [*ids, tok.eos_token_id])
    assert text == "12+7=\n19"
    assert ends == (1, 2, 3, 4, 5, 6, 7, 8, 8)


@pytest.mark.parametrize(
    ("decoder", "ends"),
    [
        ("byte level", (1, 1, 2, 2, 3, 4)),  # 🎉 in a piece of three bytes and one of one
        ("byte fallback, Llama 2", (0, 1, 1, 2, 2, 2, 2, 3, 4)),
        ("bytes in Python", (1, 1, 2, 2, 2, 2, 3, 4)),
    ],
)
def test_tokens_inside_a_character_end_where_the_one_before_does(decoder: str, ends: tuple[int, ...]) -> None:
    tok = tokenizer_of(decoder)
    assert decode(tok, tok("aé🎉b", add_special_tokens=False)["input_ids"]) == ("aé🎉b", ends)


def test_neighbours_spelled_in_bytes() -> None:
    """Three characters of four bytes each, then one token a character."""
    tok = llama()
    text, ends = decode(tok, tok("🎉🎉🎉 12 cd\nx=1")["input_ids"])
    assert text == "🎉🎉🎉 12 cd\nx=1"
    assert ends == (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, *range(3, 14))


@pytest.mark.parametrize("ids", [[], [1]])
def test_nothing_to_show(ids: list[int]) -> None:
    assert decode(tokenizer(), ids) == ("", (0,) * len(ids))


def from_every_prefix(tok: Any, ids: list[int], text: str) -> list[int]:
    """The definition: whole characters of each prefix, as far as they stay in the text; never falling."""
    ends = [0]
    for t in range(1, len(ids) + 1):
        whole = tok.decode(ids[:t], spaces_between_special_tokens=False).rstrip("�")
        agreeing = next(n for n in range(len(whole), -1, -1) if text.startswith(whole[:n]))
        ends.append(max(ends[-1], agreeing))
    return [*ends[1:-1], len(text)] if ids else []


def check(decoder: str, seed: int, count: int, length: int) -> None:
    """Texts in tokens, the same cut off inside a character, and tokens at random."""
    tok, draw = tokenizer_of(decoder), Random(seed)
    for text in texts(seed, count, length):
        ids = tok(text, add_special_tokens=False)["input_ids"]
        for case in (
            ids,
            ids[: draw.randrange(1, len(ids) + 1)],
            draw.choices(range(2, len(tok)), k=len(ids)),
        ):
            found, ends = decode(tok, case, frozenset())
            assert found == tok.decode(case, spaces_between_special_tokens=False)
            assert list(ends) == from_every_prefix(tok, case, found), (found, case)


@pytest.mark.parametrize("decoder", RECIPES)
def test_ends_are_those_of_every_prefix(decoder: str) -> None:
    check(decoder, seed=0, count=8, length=24)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", RECIPES)
@pytest.mark.parametrize("seed", range(1, 5))
def test_ends_are_those_of_every_prefix_of_long_texts(decoder: str, seed: int) -> None:
    check(decoder, seed, count=60, length=120)
