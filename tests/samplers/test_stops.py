"""A completion ends with the first token after which its text contains a stop string, however that is spelled."""

from __future__ import annotations

from random import Random

import pytest

from lgrpo_lightning.samplers.stops import Stops, StopSearch
from tests.samplers.decoders import RECIPES, llama, texts, tokenizer_of


def stopped_at(decoder: str, ids: list[int], stop: tuple[str, ...]) -> int | None:
    """Where the search, token by token, stops."""
    tok = tokenizer_of(decoder)
    search = StopSearch(tok, Stops.from_strings(tok, stop, ()))
    return next((n for n, i in enumerate(ids, 1) if search.append(i)), None)


@pytest.mark.parametrize(
    ("stop", "text", "after"),
    [
        ("结束了", "ab 结束了 no", 12),
        ("🎉", "🎉🎉🎉", 5),  # a space that falls off, and four bytes
        ("🎉🎉", "结🎉🎉", 12),
        ("了\n", "结束了\nno", 11),
        ("了", "\n了\n", 5),
        ("no", "🎉no", 6),
    ],
)
def test_stops_spelled_in_bytes(stop: str, text: str, after: int) -> None:
    tok = llama()
    ids = tok(text)["input_ids"]
    search = StopSearch(tok, Stops.from_strings(tok, (stop,), ()))
    assert next(n for n, i in enumerate(ids, 1) if search.append(i)) == after
    assert Stops.from_strings(tok, (stop,), ()).find_first(tok, ids) == after


def test_the_longest_of_several_stops_is_searched() -> None:
    tok, stop, text = llama(), ("结", "abcdefghijklmnop"), "xy abcdefghijklmnop"
    ids = tok(text)["input_ids"]
    for order in (stop, stop[::-1]):
        search = StopSearch(tok, Stops.from_strings(tok, order, ()))
        assert next((n for n, i in enumerate(ids, 1) if search.append(i)), None) == len(ids)


def from_every_prefix(decoder: str, ids: list[int], stop: str) -> int | None:
    tok = tokenizer_of(decoder)
    prefixes = (
        tok.decode([i for i in ids[:n] if i > 1], spaces_between_special_tokens=False) for n in range(1, len(ids) + 1)
    )
    return next((n for n, text in enumerate(prefixes, 1) if stop in text), None)


def check(decoder: str, seed: int, count: int, length: int) -> None:
    """Stop strings cut out of the texts, in tokens of the texts and in tokens at random."""
    tok, draw = tokenizer_of(decoder), Random(seed)
    for text in texts(seed, count, length):
        ids = tok(text, add_special_tokens=False)["input_ids"]
        for case in (ids, draw.choices(range(2, len(tok)), k=len(ids))):
            seen = tok.decode(case, spaces_between_special_tokens=False).replace("�", "")
            start = draw.randrange(len(seen)) if seen else 0
            stop = seen[start : start + draw.randrange(1, 6)] or "a"
            expected = from_every_prefix(decoder, case, stop)
            assert stopped_at(decoder, case, (stop,)) == expected, (stop, seen, case)
            assert Stops.from_strings(tok, (stop,), ()).find_first(tok, case) == expected


@pytest.mark.parametrize("decoder", RECIPES)
def test_stops_where_decoding_every_prefix_finds_them(decoder: str) -> None:
    check(decoder, seed=0, count=8, length=60)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", RECIPES)
@pytest.mark.parametrize("seed", range(1, 5))
def test_stops_in_long_texts(decoder: str, seed: int) -> None:
    check(decoder, seed, count=60, length=200)
