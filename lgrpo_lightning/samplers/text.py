"""From token ids to text, and where in the text each token ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from lgrpo_lightning.functional.common_prefix import count_common
from lgrpo_lightning.functional.sampling import Sampling

REPLACEMENT = "�"
LONGEST = 32
"""Tokens of white space alone, or without text, that a window may grow by."""


def list_stripped(tokenizer: Any, ends: Sequence[int], sampling: Sampling) -> frozenset[int]:
    """Ids that give no text: what ``sampling.strip_special_tokens`` strips from completions.

    Args:
        ends: End of sequence and padding, beside the tokenizer's own.
    """
    if sampling.strip_special_tokens == "none":
        return frozenset()
    ids = list_ends(tokenizer, ends)
    if sampling.strip_special_tokens == "all":
        ids |= set(tokenizer.all_special_ids)
    return frozenset(ids)


def list_ends(tokenizer: Any, ends: Sequence[int]) -> set[int]:
    """``ends``, and the tokenizer's end of sequence and padding."""
    return {*ends, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}


def decode_plain(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of the ids, special tokens written out and nothing put between tokens."""
    text: str = tokenizer.decode(list(token_ids), **WRITTEN_OUT)
    return text


WRITTEN_OUT: dict[str, Any] = {"skip_special_tokens": False, "spaces_between_special_tokens": False}
"""Arguments of a tokenizer's ``decode``, and of vLLM's."""


def decode(
    tokenizer: Any, token_ids: Sequence[int], stripped: frozenset[int] | None = None
) -> tuple[str, tuple[int, ...]]:
    """(text, its length in characters after each token).

    A token ends where the whole characters of decoding the tokens up to it end, as far as they stay in the text: inside
    a character that is where the character before it ends. The last one ends the text.

    Args:
        stripped: Ids that give no text, from ``list_stripped``; other special tokens are written out. None: the
            tokenizer's end of sequence and padding.
    """
    if stripped is None:
        stripped = list_stripped(tokenizer, (), Sampling())
    kept = [i for i in token_ids if i not in stripped]
    text = decode_plain(tokenizer, kept)
    ends = iter(_find_ends(tokenizer, tuple(kept), text))
    spread: list[int] = []
    for i in token_ids:
        spread.append((spread[-1] if spread else 0) if i in stripped else next(ends))
    return text, tuple(spread)


def _find_ends(tokenizer: Any, ids: tuple[int, ...], text: str) -> list[int]:
    """Where each of the ids ends in their text.

    Decoding all ids before each end is quadratic. A window of the last few gives the same where it begins between two
    characters and goes on as the text does; elsewhere (a clean-up that reaches back) all of them are decoded.
    """
    ends: list[int] = []
    before = start = end = 0  # ids[:start] are text[:end], and ids[before:start] the window's context
    broken = ""  # what ids[start:] are each by itself
    for t, newest in enumerate(ids, 1):
        # broken bytes would make every window end inside a character, and all ids be decoded again
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
            reached = end + count_common(whole, text[end : end + len(whole)])
        else:
            exact = decode_plain(tokenizer, ids[:t])
            reached = count_common(exact, text)
            if reached == len(exact) >= end:
                before, start, end, broken = start, t, reached, ""
        ends.append(max(reached, ends[-1] if ends else 0))
    if ends:
        ends[-1] = len(text)
    return ends


_known = lru_cache(maxsize=2**16)(decode_plain)
"""The same, remembered: most windows are a pair of tokens that was there before."""
