"""GRPO-λ with eligibility traces: advantages decay towards the beginning of a completion."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrpo_lightning.errors import require
from lgrpo_lightning.estimators.grpo import Power, Scale, WeightedGRPO
from lgrpo_lightning.process_tree import ProcessTree


class EligibilityTraceGRPO(WeightedGRPO):
    r"""GRPO-λ in its token form (arXiv:2510.00194). It shares only the name with this library's λ-GRPO.

    .. math:: A_{i,t} = \hat r_i \, (\gamma \lambda)^{T_i - 1 - t}, \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    for the trained tokens t = 0 … T_i - 1 and GRPO's advantage r̂_i; the λ of the first formula is ``trace_decay``, that
    of the second a process set. The last token gets all of r̂, earlier ones less. The form was found in others' notes
    and code, and reviews of the paper name the coefficients (γλ)^l, λ = 0.99 and advantages clamped at -0.1; the
    paper's equations could not be read. γ = 1, that the clamp comes before the trace, and leaving it off by default are
    this library's.
    The paper's other weights ("both", which raise early tokens too) are not here.

    Args:
        trace_decay: λ of the trace, from 0 to 1; 1 (with gamma 1) is GRPO.
        gamma: Discount γ, from 0 to 1.
        min_advantage: Lower bound of the advantages r̂, such as -0.1; null: none.
        scale: Standard deviation that divides the advantages, as in ``GRPO``.
        eps: Added to the standard deviation; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.

    Raises:
        ValueError: An argument is out of range.

    >>> from lgrpo_lightning.types import Rewards
    >>> tree = ProcessTree.from_sequences([[1, 2, 3], [1], [4, 5]])
    >>> rewards = Rewards(outcome=torch.tensor([2.0, 1.0, 0.0]))
    >>> EligibilityTraceGRPO(trace_decay=0.5, scale="none").estimate(rewards, tree).advantages.tolist()
    [[0.25, 0.5, 1.0], [0.0, 0.0, 0.0], [-0.5, -1.0, 0.0]]
    """

    def __init__(
        self,
        trace_decay: float = 0.99,
        gamma: float = 1.0,
        min_advantage: float | None = None,
        scale: Scale = "group",
        eps: float = 1e-4,
        lambda_power: Power = 0.0,
    ) -> None:
        super().__init__(scale=scale, eps=eps, lambda_power=lambda_power)
        require(
            "EligibilityTraceGRPO: ",
            locals(),
            (0 <= trace_decay <= 1, "trace_decay", "from 0 to 1"),
            (0 <= gamma <= 1, "gamma", "from 0 to 1"),
            (min_advantage is None or min_advantage <= 0, "min_advantage", "at most 0, or null"),
        )
        self.trace_decay, self.gamma, self.min_advantage = trace_decay, gamma, min_advantage

    def token_advantages(self, outcome: Tensor, tree: ProcessTree, deviation: Tensor | None) -> Tensor:
        """``[G, T]`` GRPO's advantages, which decay towards the beginning."""
        advantages = self.outcome_advantages(outcome, deviation)
        if self.min_advantage is not None:
            advantages = advantages.clamp(min=self.min_advantage)
        later = tree.trained.sum(1, keepdim=True) - tree.trained.cumsum(1)  # number of trained tokens to come
        return advantages[:, None] * torch.tensor(self.gamma * self.trace_decay).pow(later)
