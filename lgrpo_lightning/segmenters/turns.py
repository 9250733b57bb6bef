"""Steps are turns."""

from __future__ import annotations

from lgrpo_lightning.contracts import StepSegmenter
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Completion, Group


class TurnSegmenter(StepSegmenter):
    """A step is a turn, of the policy or of the environment; equal turns after equal histories are one process step.

    λ(i,t) are the completions whose turns are equal up to and including the one in which token t lies: members that
    made the same call and heard the same answer share both. Completions that parted inside a turn share nothing of it.
    A completion without turns is one step.

    >>> from lgrpo_lightning.testing import toy_group
    >>> [step.members for step in TurnSegmenter().segment(toy_group(["ab", "ab", "ac"])).steps]
    [(0, 1), (2,)]
    """

    def segment(self, group: Group) -> ProcessTree:
        """The tree of turns."""
        spans = [_spans(completion) for completion in group.completions]
        keys = [
            [completion.token_ids[a:b] for a, b in own]
            for completion, own in zip(group.completions, spans, strict=True)
        ]
        steps = [[n for n, (a, b) in enumerate(own) for _ in range(a, b)] for own in spans]
        return ProcessTree.from_steps(keys, steps)


def _spans(completion: Completion) -> list[tuple[int, int]]:
    """The turns that have tokens."""
    if not completion.turns:
        return [(0, len(completion))] if len(completion) else []
    return [(turn.start, turn.end) for turn in completion.turns if turn.end > turn.start]
