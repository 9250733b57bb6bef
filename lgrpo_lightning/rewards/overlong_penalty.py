"""Takes reward off completions that come near the longest allowed length."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrpo_lightning.contracts import RewardModel
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Group


class OverlongPenalty(RewardModel):
    r"""DAPO's soft overlong punishment (arXiv:2503.14476, equation 13); to be added to another reward.

    .. math:: R(y) = \begin{cases} 0 & |y| \le L - B \\ (L - B - |y|) / B & L - B < |y| \le L \\
        -1 & |y| > L \text{ or cut off} \end{cases}

    with L = ``max_length``, B = ``buffer`` and \|y\| the completion's length in tokens.

    Args:
        max_length: Longest length that is not punished in full, in tokens; usually ``sampling.max_new_tokens``.
        buffer: Tokens before it over which the penalty grows from 0 to -1; at least 1.

    Raises:
        ValueError: ``buffer`` is below 1 or above ``max_length``.

    >>> from lgrpo_lightning.testing import toy_group, toy_tree
    >>> group = toy_group(["a" * n for n in (5, 7, 9, 19)], eos=True)  # and the end of sequence
    >>> OverlongPenalty(max_length=10, buffer=4).score(group, toy_tree(group)).tolist()
    [0.0, -0.5, -1.0, -1.0]
    """

    def __init__(self, max_length: int, buffer: int) -> None:
        if not 1 <= buffer <= max_length:
            raise UserError(
                f"OverlongPenalty: buffer is {buffer}; it must be at least 1 and at most max_length, {max_length}."
            )
        self.max_length, self.buffer = max_length, buffer

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        free = self.max_length - self.buffer
        lengths = torch.tensor([len(r) for r in group.completions], dtype=torch.float32)
        lengths[torch.tensor([r.truncated for r in group.completions])] = torch.inf
        return ((free - lengths) / self.buffer).clamp(-1.0, 0.0)
