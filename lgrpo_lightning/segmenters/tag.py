"""Steps are the texts between tags."""

from __future__ import annotations

import re

from lgrpo_lightning.errors import UserError, listed
from lgrpo_lightning.segmenters.delimiter import DelimiterSegmenter, Normalize


class TagSegmenter(DelimiterSegmenter):
    """Splits completions before each opening and after each closing tag, such as ``<think>…</think><step>…</step>``.

    λ(i,t) are the completions whose tagged parts are equal up to and including the one in which token t lies. What
    stands outside of tags is a step of its own.

    Args:
        tags: Names of the tags, without brackets.
        normalize: Treatment of white space, as in ``DelimiterSegmenter``.
        ignore_case: Whether to ignore upper and lower case in the text. In tags it is always ignored.

    Raises:
        ValueError: There is no tag, or one with characters that no name has.

    >>> from lgrpo_lightning.testing import toy_group
    >>> tree = TagSegmenter().segment(toy_group(["<think>a</think>1", "<think>a</think>2"]))
    >>> [step.members for step in tree.steps]
    [(0, 1), (0,), (1,)]
    """

    def __init__(
        self,
        tags: list[str] | None = None,
        normalize: Normalize = "strip",
        ignore_case: bool = False,
    ) -> None:
        self.tags = listed("TagSegmenter: tags", ["think", "step", "answer"] if tags is None else tags)
        if not self.tags or not all(re.fullmatch(r"[\w.:-]+", tag) for tag in self.tags):
            raise UserError(
                f"TagSegmenter: tags are {list(self.tags)}; name at least one, without brackets, such as [think, step]."
            )
        names = "|".join(map(re.escape, self.tags))
        super().__init__(
            rf"(?i:(?=<(?:{names})\b[^<>]*>)|</(?:{names})>\s*)", normalize=normalize, ignore_case=ignore_case
        )
