"""Steps are sentences."""

from __future__ import annotations

from lgrpo_lightning.segmenters.delimiter import DelimiterSegmenter, Normalize

SENTENCE = r"(?:[.!?…]+[\"'”’)\]]*\s+|[。！？]+|\n+)"
"""Where a sentence ends: a mark and white space (so that 3.5 is none), a full-width mark, or a line."""


class SentenceSegmenter(DelimiterSegmenter):
    """Splits completions into sentences; equal sentences after equal beginnings are one process step.

    λ(i,t) are the completions that wrote the same sentences up to and including token t's, whatever their white space
    and tokenisation. A mark ends a sentence where white space follows it, so that abbreviations do too ("e.g. this").

    Args:
        normalize: Treatment of white space, as in ``DelimiterSegmenter``.
        ignore_case: Whether to ignore upper and lower case.

    >>> from lgrpo_lightning.testing import toy_group
    >>> tree = SentenceSegmenter().segment(toy_group(["So. It is 3.5!", "So.  It is 4."]))
    >>> [step.members for step in tree.steps]
    [(0, 1), (0,), (1,)]
    """

    def __init__(self, normalize: Normalize = "strip", ignore_case: bool = False) -> None:
        super().__init__(SENTENCE, normalize=normalize, ignore_case=ignore_case)
