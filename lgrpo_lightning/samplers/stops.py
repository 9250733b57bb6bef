"""Stop strings: which are tokens, and after which token the text contains one."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lgrpo_lightning.samplers.text import REPLACEMENT, decode, decode_plain, list_ends
from lgrpo_lightning.types import Completion

MARGIN = 4
"""Characters that a window has beside the longest stop string: what its first tokens decode to without those before."""
BROKEN = 256
"""Characters of a window in which no character ends, because bytes are broken, after which it may begin anywhere."""


@dataclass(frozen=True, kw_only=True)
class Stops:
    """How stop strings are found, in both samplers: as tokens, or in the text with special tokens written out.

    Attributes:
        token_ids: Of the stop strings that are a token of their own, such as ``<|im_end|>`` or a tool tag.
        hidden: Ids without text: end of sequence and padding, unless a stop string names them.
        written_out: Whether any stop string meets a special token's text, so that these have to be written out.
        strings: The stop strings.
    """

    token_ids: tuple[int, ...] = ()
    hidden: frozenset[int] = frozenset()
    written_out: bool = False
    strings: tuple[str, ...] = ()

    @classmethod
    def from_strings(cls, tokenizer: Any, stop: Sequence[str], ends: Sequence[int]) -> Stops:
        """Those of ``sampling.stop``; ``ends`` as in ``list_stripped``."""
        if not stop:
            return cls()
        added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        named = {number for number, text in added.items() if any(text in s for s in stop)}
        hidden = list_ends(tokenizer, ends) - named
        parts = {number for number, text in added.items() if any(s in text for s in stop)} - hidden
        return cls(
            token_ids=tuple(number for number, text in added.items() if text in stop),
            hidden=frozenset(hidden),
            written_out=bool(named | parts),
            strings=tuple(stop),
        )

    def find_first(self, tokenizer: Any, token_ids: Sequence[int]) -> int | None:
        """Number of tokens after which the text first contains a stop string, or None."""
        if not self.strings:
            return None
        text, ends = decode(tokenizer, token_ids, self.hidden)
        if REPLACEMENT in text:  # a character cut off may hide the whole ones before it
            search = StopSearch(tokenizer, self)
            return next((n for n, i in enumerate(token_ids, 1) if search.append(i)), None)
        reached = min((text.index(s) + len(s) for s in self.strings if s in text), default=None)
        return None if reached is None else bisect_left(ends, reached) + 1

    def cut(self, tokenizer: Any, completion: Completion, stripped: frozenset[int]) -> Completion:
        """The completion up to the token that completes a stop string; ``stripped`` as in ``decode``."""
        length = self.find_first(tokenizer, completion.token_ids)
        if length is None:
            return completion
        text, ends = decode(tokenizer, completion.token_ids[:length], stripped)
        return replace(
            completion,
            token_ids=completion.token_ids[:length],
            logprobs=completion.logprobs[:length],
            text=text,
            text_ends=ends,
            finish_reason="stop",
            mask=completion.mask[:length],
            entropies=None if completion.entropies is None else completion.entropies[:length],
        )


class StopSearch:
    """Looks for stop strings in the text of token ids that come one after another.

    Only a window of the last tokens is decoded each time. It begins between two characters, as bytes without those
    before them are no character, and is long enough in characters, however many tokens spell them.
    """

    def __init__(self, tokenizer: Any, stops: Stops) -> None:
        self.tokenizer, self.stops = tokenizer, stops
        self.needed = max(map(len, stops.strings), default=0) + MARGIN
        self.ids: list[int] = []
        self.begin = self.skipped = 0  # where the window begins, in tokens and in characters
        self.bounds: deque[tuple[int, int]] = deque()  # ends of tokens at which a window may begin, likewise

    def append(self, token_id: int) -> bool:
        """Whether the text contains a stop string now."""
        if token_id in self.stops.hidden:
            return False
        self.ids.append(token_id)
        text = decode_plain(self.tokenizer, self.ids[self.begin :])
        if not text.endswith(REPLACEMENT) or len(text) > 4 * self.needed + BROKEN:
            length = self.skipped + len(text)
            self.bounds.append((len(self.ids), length))
            while length - self.bounds[0][1] >= self.needed:
                self.begin, self.skipped = self.bounds.popleft()
        # decoded without the tokens before it, a window may differ from the text: the whole of it decides
        return self._has_stop(text) and self._has_stop(decode_plain(self.tokenizer, self.ids))

    def _has_stop(self, text: str) -> bool:
        return any(s in text for s in self.stops.strings)
