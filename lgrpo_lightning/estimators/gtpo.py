"""GTPO: no negative update of tokens that good completions share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lgrpo_lightning.errors import require
from lgrpo_lightning.estimators.grpo import Power, Scale, WeightedGRPO
from lgrpo_lightning.process_tree import ProcessTree


class GTPO(WeightedGRPO):
    r"""GRPO without negative updates of conflict tokens and with larger positive ones (arXiv:2508.03772).

    .. math:: A_{i,t} = \delta_{i,t} \, a_i, \quad \delta_{i,t} = \begin{cases} c & a_i > 0 \\ 0 & a_i < 0 \end{cases}
        \text{ in conflict}, \quad 1 \text{ elsewhere}, \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    with GRPO's advantage a_i. A token is in conflict if completions with a positive and with a negative advantage
    share it. δ and c = 2 are from the authors' code.

    What is this library's reading: shared is what has one process set, the whole prefix being the same; the authors
    compare position and token, in an unbroken run from the first token, and so in a run that ends at the last
    one, where the tree knows nothing. Their filter of completions by entropy, the entropy term of the
    advantage and the division of a completion's loss by its number of conflict tokens are not part of it.

    Args:
        scale: Standard deviation that divides the advantages, as in ``GRPO``.
        eps: Added to the standard deviation; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.
        conflict_factor: c, the factor of positive advantages in conflict; at least 0; 1 leaves them unchanged.

    Raises:
        ValueError: An argument is out of range.

    >>> from lgrpo_lightning.types import Rewards
    >>> tree = ProcessTree.from_sequences([[1, 2], [1, 3], [4]])
    >>> rewards = Rewards(outcome=torch.tensor([2.0, 0.0, 1.0]))
    >>> GTPO(scale="none").estimate(rewards, tree).advantages.tolist()
    [[2.0, 1.0], [0.0, -1.0], [0.0, 0.0]]
    """

    def __init__(
        self,
        scale: Scale = "group",
        eps: float = 1e-4,
        lambda_power: Power = 0.0,
        conflict_factor: float = 2.0,
    ) -> None:
        super().__init__(scale=scale, eps=eps, lambda_power=lambda_power)
        allowed = 0 <= conflict_factor < math.inf
        require("GTPO: ", locals(), (allowed, "conflict_factor", "a number that is at least 0"))
        self.conflict_factor = conflict_factor

    def token_advantages(self, outcome: Tensor, tree: ProcessTree, deviation: Tensor | None) -> Tensor:
        """``[G, T]`` δ · a."""
        advantages = self.outcome_advantages(outcome, deviation)
        both = [tree.set_means(sign.float()) > 0 for sign in (advantages > 0, advantages < 0)]
        spread = advantages[:, None].expand(both[0].shape)
        positive = spread.clamp(min=0.0) * self.conflict_factor
        return torch.where(both[0] & both[1], positive, spread)
