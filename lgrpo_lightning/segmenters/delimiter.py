"""Steps at text boundaries: lines, paragraphs, or whatever a regular expression matches."""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import pairwise
from typing import Literal

from lgrpo_lightning.contracts import StepSegmenter
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Completion, Group

NAMED = {"line": r"\n", "paragraph": r"\n[^\S\n]*\n"}
"""Delimiters with a name of their own."""

Normalize = Literal["none", "strip", "collapse"]


class DelimiterSegmenter(StepSegmenter):
    """Splits completions into steps at text boundaries; equal texts are one process step.

    Two steps are the same where their normalised texts are, and those of all steps before them. Process sets
    differ from those over exact tokens: they forgive white space, another tokenisation and the
    end-of-sequence token, and they end at the end of a step instead of at the first differing token.

    A token belongs to the step in which its first character lies; a token without text of its own (the end of
    sequence, a byte that does not complete its character) to the step of the token before it. A step ends after
    its delimiter. A step of white space alone, unless ``normalize`` is "none", and a step in which no token
    begins, join the step before.

    Args:
        delimiter: Where a step ends: "line" (a newline), "paragraph" (a blank line) or a regular expression,
            such as ``(?<=[.!?])\\s`` for sentences or ``(?=Step \\d)`` to cut before each "Step 1".
        normalize: What of white space does not matter when steps are compared: "none" compares exactly,
            "strip" ignores it around a step, "collapse" also its amount inside.
        ignore_case: Whether to ignore upper and lower case.

    Raises:
        ValueError: ``delimiter`` is no regular expression, or one that matches nothing at every position.

    >>> from lgrpo_lightning.testing import toy_group
    >>> group = toy_group(["a\\nb", "a \\nc"])
    >>> DelimiterSegmenter().segment(group).set_sizes().tolist()
    [[2, 2, 1, 0], [2, 2, 2, 1]]
    """

    def __init__(self, delimiter: str = "line", normalize: Normalize = "strip", ignore_case: bool = False) -> None:
        if normalize not in ("none", "strip", "collapse"):
            raise UserError(f"normalize is {normalize!r}; possible are 'none', 'strip' and 'collapse'.")
        self.delimiter = delimiter
        self.normalize = normalize
        self.ignore_case = ignore_case
        self._pattern = _compile(delimiter)

    def segment(self, group: Group) -> ProcessTree:
        """The tree of steps with equal normalised text."""
        divided = [self._divide(completion) for completion in group.completions]
        return ProcessTree.from_steps([keys for keys, _ in divided], [steps for _, steps in divided])

    def _divide(self, completion: Completion) -> tuple[list[tuple[str, ...]], list[int]]:
        """(key of each step, step of each token) of one completion; every step has a token."""
        pieces = self._pieces(completion.text)
        starts = [start for start, _ in pieces]
        entered: list[int] = []  # the pieces in which a token begins
        steps: list[int] = []
        begin = 0
        for end in completion.text_ends:
            if not entered or end > begin:
                piece = max(bisect_right(starts, begin) - 1, 0)
                if not entered or piece > entered[-1]:
                    entered.append(piece)
            steps.append(len(entered) - 1)
            begin = end
        bounds = [*entered, len(pieces)]
        keys = [tuple(text for _, text in pieces[a:b]) for a, b in pairwise(bounds)]
        return keys, steps

    def _pieces(self, text: str) -> list[tuple[int, str]]:
        """(first character, normalised text) of each step of ``text``; blank ones joined to a neighbour."""
        cuts = [0, *(m.end() for m in self._pattern.finditer(text) if 0 < m.end() < len(text)), len(text)]
        pieces: list[tuple[int, str]] = []
        for start, end in pairwise(cuts):
            if start == end:
                continue
            key = self._normalize(text[start:end])
            if pieces and not pieces[-1][1]:  # only white space so far: the text starts there
                pieces[-1] = (pieces[-1][0], key)
            elif key or not pieces:
                pieces.append((start, key))
        return pieces

    def _normalize(self, text: str) -> str:
        if self.ignore_case:
            text = text.casefold()
        if self.normalize == "none":
            return text
        return text.strip() if self.normalize == "strip" else " ".join(text.split())


def _compile(delimiter: str) -> re.Pattern[str]:
    """The pattern of a delimiter, refused where it is invalid or cuts at every character."""
    try:
        pattern = re.compile(NAMED.get(delimiter, delimiter))
    except re.error as error:
        raise UserError(
            f"delimiter is {delimiter!r}, which is no valid regular expression: {error}. Possible are "
            "'line', 'paragraph' and a regular expression; escape characters meant literally, such as '\\.'."
        ) from error
    everywhere = pattern.match("ab", 1)
    if everywhere and everywhere.end() == 1:
        raise UserError(
            f"delimiter is {delimiter!r}, which matches the empty string at every position, so that each "
            "character would be a step. Write one that matches at least one character: 'x+' instead of 'x*'."
        )
    return pattern
