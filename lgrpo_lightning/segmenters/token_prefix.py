"""The process tree of the paper: steps are shared prefixes of exact tokens."""

from __future__ import annotations

from lgrpo_lightning.contracts import StepSegmenter
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Group


class TokenPrefixSegmenter(StepSegmenter):
    """B(G) over exact tokens (arXiv:2509.21154): completions share a step as long as their tokens agree.

    >>> from lgrpo_lightning.testing import toy_group
    >>> TokenPrefixSegmenter().segment(toy_group([[1, 2, 3], [1, 2, 4], [5]])).set_sizes().tolist()
    [[2, 2, 1], [2, 2, 1], [1, 0, 0]]
    """

    def segment(self, group: Group) -> ProcessTree:
        """The tree of shared token prefixes."""
        return ProcessTree.from_sequences(group.sequences)
