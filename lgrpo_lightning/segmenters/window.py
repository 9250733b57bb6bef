"""Steps are windows with a fixed number of tokens."""

from __future__ import annotations

from lgrpo_lightning.contracts import StepSegmenter
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Group


class WindowSegmenter(StepSegmenter):
    """Splits completions into windows of ``size`` tokens; equal windows after equal beginnings are one process step.

    λ(i,t) are the completions whose tokens agree to the end of token t's window: fewer than over exact tokens, where
    they share a window's beginning only. For process rewards it gives steps of one length.

    Args:
        size: Tokens of a window; the last one may have fewer.

    Raises:
        ValueError: ``size`` is below 1.

    >>> from lgrpo_lightning.testing import toy_group
    >>> WindowSegmenter(size=2).segment(toy_group([[1, 2, 3], [1, 2, 4], [1, 5]])).set_sizes().tolist()
    [[2, 2, 1], [2, 2, 1], [1, 1, 0]]
    """

    def __init__(self, size: int = 32) -> None:
        if size < 1:
            raise UserError(f"WindowSegmenter: size is {size}; it must be at least 1.")
        self.size = size

    def segment(self, group: Group) -> ProcessTree:
        """The tree of equal windows."""
        keys = [[tuple(ids[at : at + self.size]) for at in range(0, len(ids), self.size)] for ids in group.sequences]
        return ProcessTree.from_steps(keys, [[t // self.size for t in range(len(ids))] for ids in group.sequences])
