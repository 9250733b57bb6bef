"""From token ids to text, where in the text each token ends, and which stop strings are tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lgrpo_lightning.types import Sampling

REPLACEMENT = "�"


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


@dataclass(frozen=True, kw_only=True)
class Stops:
    """How stop strings are found, in both samplers: as tokens, or in the text with special tokens written out.

    Attributes:
        token_ids: Of the stop strings that are a token of their own, such as ``<|im_end|>`` or a tool tag.
        hidden: Ids without text: end of sequence and padding, unless a stop string names them.
        written_out: Whether any stop string meets a special token's text, so that these have to be written out.
    """

    token_ids: tuple[int, ...] = ()
    hidden: frozenset[int] = frozenset()
    written_out: bool = False

    @classmethod
    def of(cls, tokenizer: Any, stop: Sequence[str], ends: Sequence[int]) -> Stops:
        """Those of ``sampling.stop``; ``ends`` as in ``stripped_tokens``."""
        if not stop:
            return cls()
        added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        named = {number for number, text in added.items() if any(text in s for s in stop)}
        hidden = end_ids(tokenizer, ends) - named
        parts = {number for number, text in added.items() if any(s in text for s in stop)} - hidden
        return cls(
            token_ids=tuple(number for number, text in added.items() if text in stop),
            hidden=frozenset(hidden),
            written_out=bool(named | parts),
        )


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

    A token that ends inside a character ends where the character before it does; the last one ends the text.

    Args:
        stripped: Ids that give no text, from ``stripped_tokens``; other special tokens are written out. None: the
            tokenizer's end of sequence and padding.
    """
    if stripped is None:
        stripped = stripped_tokens(tokenizer, (), Sampling())
    kept = [i for i in token_ids if i not in stripped]
    text = plain_text(tokenizer, kept)
    ends = iter(_ends(tokenizer, kept, len(text)))
    spread: list[int] = []
    for i in token_ids:
        spread.append((spread[-1] if spread else 0) if i in stripped else next(ends))
    return text, tuple(spread)


def _ends(tokenizer: Any, token_ids: Sequence[int], length: int) -> list[int]:
    """Where each of the ids ends in their text of ``length`` characters."""
    ends: list[int] = []
    start = end = 0  # tokens before `start` are settled; their text has `end` characters
    for t in range(len(token_ids)):
        window = token_ids[max(0, start - 1) : t + 1]
        piece = _piece(tokenizer, tuple(window), has_context=start > 0)
        if piece.endswith(REPLACEMENT) and len(window) < 8:
            ends.append(end)
            continue
        end = min(end + len(piece), length)
        ends.append(end)
        start = t + 1
    if ends:
        ends[-1] = length
    return ends


def _piece(tokenizer: Any, window: tuple[int, ...], *, has_context: bool) -> str:
    """The text that the window adds after its first token (all of it where that is not context). Remembered."""
    cache: dict[tuple[tuple[int, ...], bool], str] = tokenizer.__dict__.setdefault("_lgrpo_pieces", {})
    key = (window, has_context)
    if key not in cache:
        before = plain_text(tokenizer, window[:1]) if has_context else ""
        cache[key] = plain_text(tokenizer, window)[len(before) :]
    return cache[key]
