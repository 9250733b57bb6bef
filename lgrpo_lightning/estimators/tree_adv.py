"""TreeAdv: advantages of complete completions handed down to the steps they share."""

from __future__ import annotations

import math

from torch import Tensor

from lgrpo_lightning.errors import require
from lgrpo_lightning.estimators.grpo import Power, Scale
from lgrpo_lightning.estimators.implicit_prm import ImplicitPRM
from lgrpo_lightning.process_tree import ProcessTree


class TreeAdv(ImplicitPRM):
    r"""The advantage of a token aggregates those of the completions that share it (arXiv:2601.03703).

    .. math:: A_{i,t} = \frac{1}{|\lambda(i,t)|^q} \sum_{j \in \lambda(i,t)}
        \frac{r_j - \mathrm{mean}(r)}{\mathrm{std} + \epsilon}, \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    The abstract says that advantages of complete rollouts, the leaves, are aggregated for the inner segments of trees
    whose tokens are shared, and works with GRPO and GSPO. The aggregate itself could not be read: the mean (q = 1) is
    this library's reading, and q makes it the sum (0) or between, as is that advantages are normalised over the whole
    group. With the mean it is ``ImplicitPRM``, and so by the theorem of arXiv:2509.21154 GRPO, with one update per
    rollout and the token normaliser; what is then left of the paper is its sampling, which forks at undecided tokens
    (``ForkingSampler`` with ``cut: entropy``).

    Args:
        scale: Standard deviation that divides the advantages, as in ``GRPO``.
        eps: Added to the standard deviation; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; 1 has a shared token count once, as one node of a tree.
        leaf_power: q, how far the sum over leaves is divided by their number; at least 0.

    Raises:
        ValueError: An argument is out of range.

    >>> import torch
    >>> from lgrpo_lightning.types import Rewards
    >>> tree = ProcessTree.from_sequences([[1, 2], [1], [3]])
    >>> rewards = Rewards(outcome=torch.tensor([2.0, 1.0, 0.0]))
    >>> TreeAdv(scale="none").estimate(rewards, tree).advantages.tolist()
    [[0.5, 1.0], [0.5, 0.0], [-1.0, 0.0]]
    >>> TreeAdv(scale="none", leaf_power=0).estimate(rewards, tree).advantages.tolist()
    [[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]
    """

    def __init__(
        self,
        scale: Scale = "group",
        eps: float = 1e-4,
        lambda_power: Power = 0.0,
        leaf_power: float = 1.0,
    ) -> None:
        super().__init__(scale=scale, eps=eps, lambda_power=lambda_power)
        require("TreeAdv: ", locals(), (0 <= leaf_power < math.inf, "leaf_power", "a number that is at least 0"))
        self.leaf_power = leaf_power

    def token_advantages(self, outcome: Tensor, tree: ProcessTree, deviation: Tensor | None) -> Tensor:
        """``[G, T]`` the aggregate over the members of a set whose reward applies; 0 for the others."""
        means = super().token_advantages(outcome, tree, deviation)
        leaves = tree.set_means((~outcome.isnan()).float()) * tree.set_sizes()
        return means * leaves.clamp(min=1).pow(1 - self.leaf_power)
