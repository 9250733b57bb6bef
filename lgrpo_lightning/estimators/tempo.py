"""TEMPO: GRPO with a temporal-difference term where completions part."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrpo_lightning.estimators.grpo import Power, Scale, WeightedGRPO
from lgrpo_lightning.functional import close
from lgrpo_lightning.process_tree import ProcessTree


class TEMPO(WeightedGRPO):
    r"""The completion's advantage, and at a branching token the change in value (arXiv:2509.18314).

    .. math:: A_{i,t} = \frac{r_i - \mathrm{mean}(r) + c \, (V(s_{t+1}) - V(s_t))}{\mathrm{std} + \epsilon}

    V of a prefix is the mean reward of the group's completions that begin with it, whoever trains it, so that the
    second term is 0 where they stay the same. The abstract, and summaries of the paper, say this much; the paper's own
    formula, its treatment of the last token and its coefficient could not be read: c = 1 and no term for ending (the
    value after the last token is that of its process set) are this library's reading.

    Args:
        coefficient: c, how much the change in value counts.
        scale: Standard deviation that divides the advantages, as in ``GRPO``.
        eps: Added to the standard deviation; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.

    >>> from lgrpo_lightning.types import Rewards
    >>> tree = ProcessTree.from_sequences([[1, 2], [1, 3], [4]])
    >>> rewards = Rewards(outcome=torch.tensor([3.0, 0.0, 0.0]))
    >>> TEMPO(scale="none").estimate(rewards, tree).advantages.tolist()
    [[2.5, 3.5], [-0.5, -2.5], [-2.0, 0.0]]
    """

    def __init__(
        self, coefficient: float = 1.0, scale: Scale = "group", eps: float = 1e-4, lambda_power: Power = 0.0
    ) -> None:
        super().__init__(scale=scale, eps=eps, lambda_power=lambda_power)
        self.coefficient = coefficient

    def token_advantages(self, outcome: Tensor, tree: ProcessTree, deviation: Tensor | None) -> Tensor:
        """``[G, T]`` GRPO's, and c · (V after the token - V before it), divided alike."""
        advantages, outcome = self.outcome_advantages(outcome, deviation)[:, None], outcome.double()
        after = tree.set_means(outcome, trained=False)
        before = torch.cat([outcome.nanmean().expand(len(outcome), 1), after[:, :-1]], dim=1)
        valid = outcome[~outcome.isnan()]
        if self.scale == "group":
            deviation = valid.std() if len(valid) > 1 else outcome.new_zeros(())
        divisor = 1.0 if deviation is None else deviation + self.eps
        change = self.coefficient * (after - before) / divisor
        change = torch.where(outcome.isnan()[:, None] | close(after, before), 0.0, change).nan_to_num(0.0)
        return advantages + change
