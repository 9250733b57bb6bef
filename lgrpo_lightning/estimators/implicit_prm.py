"""GRPO written with step rewards, by the theorem of the paper."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrpo_lightning.estimators.grpo import WeightedGRPO
from lgrpo_lightning.process_tree import ProcessTree


class ImplicitPRM(WeightedGRPO):
    r"""The advantage of a token is the mean advantage of the completions that share its step.

    .. math:: A_{i,t} = \frac{1}{|\lambda(i,t)|} \sum_{j \in \lambda(i,t)}
        \frac{r_j - \mathrm{mean}(r)}{\mathrm{std} + \epsilon}, \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    The right-hand side of the theorem of arXiv:2509.21154: with one update per rollout and the token or constant
    normaliser its loss and gradient are GRPO's (with p = 0; and λ-GRPO's with p = 1). With several updates and
    clipping they differ, as members of a set then have one sign of advantage.

    Args:
        scale: Standard deviation that divides the advantages, as in ``GRPO``.
        eps: Added to the standard deviation; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.

    >>> from lgrpo_lightning.types import Rewards
    >>> tree = ProcessTree.from_sequences([[1, 2], [1], [3]])
    >>> rewards = Rewards(outcome=torch.tensor([2.0, 1.0, 0.0]))
    >>> ImplicitPRM(scale="none").estimate(rewards, tree).advantages.tolist()
    [[0.5, 1.0], [0.5, 0.0], [-1.0, 0.0]]
    """

    def token_advantages(self, outcome: Tensor, tree: ProcessTree, deviation: Tensor | None) -> Tensor:
        """``[G, T]`` the mean over the members of a set whose reward applies; 0 for the others."""
        invalid = outcome.isnan()
        valid = torch.where(invalid, torch.nan, self.outcome_advantages(outcome, deviation))
        return torch.where(invalid[:, None], 0.0, tree.set_means(valid))
