"""From token ids to text, and where in the text each token ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

REPLACEMENT = "�"


def decoded(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """(text without special tokens, its length in characters after each token).

    A token that ends inside a character ends where the character before it does; the last one ends the text.
    """
    text: str = tokenizer.decode(list(token_ids), skip_special_tokens=True)
    ends: list[int] = []
    start = end = 0  # tokens before `start` are settled; their text has `end` characters
    for t in range(len(token_ids)):
        window = token_ids[max(0, start - 1) : t + 1]
        piece = _piece(tokenizer, tuple(window), has_context=start > 0)
        if piece.endswith(REPLACEMENT) and len(window) < 8:
            ends.append(end)
            continue
        end = min(end + len(piece), len(text))
        ends.append(end)
        start = t + 1
    if ends:
        ends[-1] = len(text)
    return text, tuple(ends)


def _piece(tokenizer: Any, window: tuple[int, ...], *, has_context: bool) -> str:
    """The text that the window adds after its first token (all of it where that is not context). Remembered."""
    cache: dict[tuple[tuple[int, ...], bool], str] = tokenizer.__dict__.setdefault("_lgrpo_pieces", {})
    key = (window, has_context)
    if key not in cache:
        whole = tokenizer.decode(list(window), skip_special_tokens=True)
        before = tokenizer.decode(list(window[:1]), skip_special_tokens=True) if has_context else ""
        cache[key] = whole[len(before) :]
    return cache[key]
