"""From token ids to text, and where in the text each token ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from lgrpo_lightning.types import Sampling

REPLACEMENT = "�"
LONGEST = 32
"""Tokens of white space alone, or without text, that a window may grow by."""


def stripped_tokens(tokenizer: Any, ends: Sequence[int], sampling: Sampling) -> frozenset[int]:
    """Ids that give no text: what ``sampling.strip_special_tokens`` strips from completions.

    Args:
        ends: End of sequence and padding, beside the tokenizer's own.
    """
    if sampling.strip_special_tokens == "none":
        return frozenset()
    found = end_ids(tokenizer, ends)
    if sampling.strip_special_tokens == "all":
        found |= set(tokenizer.all_special_ids)
    return frozenset(found)


def end_ids(tokenizer: Any, ends: Sequence[int]) -> set[int]:
    """``ends``, and the tokenizer's end of sequence and padding."""
    return {*ends, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}


def plain_text(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of the ids, special tokens written out and nothing put between tokens."""
    text: str = tokenizer.decode(list(token_ids), **WRITTEN_OUT)
    return text


WRITTEN_OUT: dict[str, Any] = {"skip_special_tokens": False, "spaces_between_special_tokens": False}
"""Arguments of a tokenizer's ``decode``, and of vLLM's."""


def decoded(
    tokenizer: Any, token_ids: Sequence[int], stripped: frozenset[int] | None = None
) -> tuple[str, tuple[int, ...]]:
    """(text, its length in characters after each token).

    A token ends where the whole characters of decoding the tokens up to it end, as far as they stay in the text: inside
    a character that is where the character before it ends. The last one ends the text.

    Args:
        stripped: Ids that give no text, from ``stripped_tokens``; other special tokens are written out. None: the
            tokenizer's end of sequence and padding.
    """
    if stripped is None:
        stripped = stripped_tokens(tokenizer, (), Sampling())
    kept = [i for i in token_ids if i not in stripped]
    text = plain_text(tokenizer, kept)
    ends = iter(_ends(tokenizer, tuple(kept), text))
    spread: list[int] = []
    for i in token_ids:
        spread.append((spread[-1] if spread else 0) if i in stripped else next(ends))
    return text, tuple(spread)


def _ends(tokenizer: Any, ids: tuple[int, ...], text: str) -> list[int]:
    """Where each of the ids ends in their text.

    Decoding all ids before each end is quadratic. A window of the last few gives the same where it begins between two
    characters and goes on as the text does; elsewhere (a clean-up that reaches back) all of them are decoded.
    """
    ends: list[int] = []
    before = start = end = 0  # ids[:start] are text[:end], and ids[before:start] the window's context
    broken = ""  # what ids[start:] are each by itself
    for t, newest in enumerate(ids, 1):
        if in_broken := text.startswith(REPLACEMENT, end):
            alone = _known(tokenizer, (newest,))
            broken += alone
            if alone and not broken.strip(REPLACEMENT) and text.startswith(broken, end):
                ends.append(end)  # bytes that become no character
                continue
        context, window = _known(tokenizer, ids[before:start]), _known(tokenizer, ids[before:t])
        goes_on = window.startswith(context)
        piece = window[len(context) :]
        if goes_on and not window.endswith(REPLACEMENT) and text.startswith(piece, end):
            if piece.strip() or t - before > LONGEST:  # white space alone may be stripped where a text begins
                before = start
            start = t
            end, broken = end + len(piece), ""
            reached = end
        elif window.endswith(REPLACEMENT) or (goes_on and in_broken):
            whole = piece.rstrip(REPLACEMENT) if goes_on else ""
            reached = end + _agreeing(whole, text[end : end + len(whole)])
        else:
            exact = plain_text(tokenizer, ids[:t])
            reached = _agreeing(exact, text)
            if reached == len(exact) >= end:
                before, start, end, broken = start, t, reached, ""
        ends.append(max(reached, ends[-1] if ends else 0))
    if ends:
        ends[-1] = len(text)
    return ends


def _agreeing(a: str, b: str) -> int:
    """Number of characters with which both begin."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


_known = lru_cache(maxsize=2**16)(plain_text)
"""The same, remembered: most windows are a pair of tokens that was there before."""
