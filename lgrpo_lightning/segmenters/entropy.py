"""Steps begin at tokens with a high entropy."""

from __future__ import annotations

from itertools import pairwise

import torch

from lgrpo_lightning.contracts import StepSegmenter
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.process_tree import ProcessTree, Trie
from lgrpo_lightning.types import Group


class EntropySegmenter(StepSegmenter):
    """Splits completions before tokens with a high entropy; steps of equal tokens are one process step.

    λ(i,t) are the completions whose tokens agree to the end of token t's step, up to the next undecided token: where
    completions part at a decided token, they share less than over exact tokens. What counts as high is told for each
    group, over its distinct tokens that are trained; the others begin no step.

    It needs ``Completion.entropies``: ``TransformersSampler`` fills them with ``entropies: true``, ``VLLMSampler`` with
    ``entropy_top: 20``.

    Args:
        quantile: Share of a group's distinct trained tokens that do not begin a step; from 0 to 1.

    Raises:
        ValueError: ``quantile`` is out of range, or completions have no entropies.
    """

    def __init__(self, quantile: float = 0.8) -> None:
        if not 0 <= quantile <= 1:
            raise UserError(f"EntropySegmenter: quantile is {quantile}; it must be from 0 to 1.")
        self.quantile = quantile

    def segment(self, group: Group) -> ProcessTree:
        """The tree of steps between high-entropy tokens."""
        starts = find_high_entropy(group, self.quantile)
        keys, steps = [], []
        for row, ids in zip(starts, group.sequences, strict=True):
            begins = [t for t in range(len(ids)) if t == 0 or row[t]]
            bounds = [*begins, len(ids)]
            keys.append([tuple(ids[a:b]) for a, b in pairwise(bounds)])
            steps.append([n for n, a in enumerate(begins) for _ in range(a, bounds[n + 1])])
        return ProcessTree.from_steps(keys, steps)


def find_high_entropy(group: Group, quantile: float) -> list[list[bool]]:
    """For every token whether its entropy is above the quantile of the group's distinct trained tokens.

    A shared trained prefix has one entropy, the mean of its members, so that rounding does not separate them.

    Raises:
        ValueError: A completion has no entropies.
    """
    if any(completion.entropies is None and completion.mask.any() for completion in group.completions):
        raise UserError(
            "Steps at high-entropy tokens need Completion.entropies, which this sampler does not give. Take "
            "model.sampler: {class_path: TransformersSampler, init_args: {entropies: true}}, or "
            "{class_path: VLLMSampler, init_args: {entropy_top: 20}}."
        )
    trie = Trie.from_sequences(group.sequences)
    total, count = torch.zeros(len(trie)), torch.zeros(len(trie))
    for row, completion in zip(trie.node_ids, group.completions, strict=True):
        if completion.entropies is not None:
            own = row[: len(completion)][completion.mask]
            total.index_add_(0, own, completion.entropies.float()[completion.mask])
            count.index_add_(0, own, torch.ones(len(own)))
    mean = total / count  # NaN where nobody trains
    high = mean > (mean.nanquantile(quantile) if len(mean) else 0.0)
    return [high[row[: len(r)]].tolist() for row, r in zip(trie.node_ids, group.completions, strict=True)]
