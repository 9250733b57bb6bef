"""λ-GRPO: GRPO whose tokens count once per process set instead of once per completion."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lgrpo_lightning.estimators.grpo import GRPO
from lgrpo_lightning.process_tree import ProcessTree


class LambdaGRPO(GRPO):
    r"""GRPO with every token weighted by the inverse size of its process set (arXiv:2509.21154, section 5).

    .. math:: A_{i,t} = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std} + \epsilon}, \quad
        w_{i,t} = \frac{1}{|\lambda(i,t)|}

    GRPO lets a process step count as often as completions share it; the weight takes that back. Over exact
    tokens the weights of a group add up to its number of distinct prefixes, the nodes of its trie.

    Args:
        scale: Which standard deviation (with Bessel's correction) divides the advantages: "group" that of the
            group, "batch" that of all rewards of the rollout batch on all ranks, "none" nothing (Dr.GRPO).
        eps: Added to the standard deviation; above 0.

    >>> tree = ProcessTree.from_sequences([[1, 2], [1], [3]])
    >>> LambdaGRPO().weights(tree).tolist()
    [[0.5, 1.0], [0.5, 0.0], [1.0, 0.0]]
    """

    def __init__(self, scale: Literal["group", "batch", "none"] = "group", eps: float = 1e-4) -> None:
        super().__init__(scale=scale, eps=eps)

    def weights(self, tree: ProcessTree) -> Tensor:
        """``[G, T]`` 1/|λ(i, t)|, 0 on padding."""
        return super().weights(tree) / tree.set_sizes().clamp(min=1)
