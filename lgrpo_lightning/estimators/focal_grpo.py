"""F-GRPO: groups count less the more of their completions are right."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from lgrpo_lightning.errors import require
from lgrpo_lightning.estimators.grpo import Power, Scale, WeightedGRPO
from lgrpo_lightning.functional import reaches


class FocalGRPO(WeightedGRPO):
    r"""GRPO whose advantages are weighted by the difficulty of the prompt (arXiv:2602.06717).

    .. math:: A_{i,t} = (1 - \hat p)^\gamma \, \frac{r_i - \mathrm{mean}(r)}{\mathrm{std} + \epsilon},
        \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    with the pass rate p̂, the share of right completions among those of the group whose reward applies. Where most of
    a group is right, an update raises the solutions that are common already, at the cost of right ones that were not
    sampled; the factor, as in the focal loss, makes it small. The formula is the paper's; γ = 1 by default is this
    library's.

    Args:
        focal_gamma: γ, at least 0; 0 is GRPO.
        success_threshold: A completion is right if its outcome reward is at least this.
        scale: Standard deviation that divides the advantages, as in ``GRPO``.
        eps: Added to the standard deviation; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.

    Raises:
        ValueError: An argument is out of range.

    By hand, one of four right: (1 - 1/4) · 3/4 and (1 - 1/4) · -1/4.

    >>> import torch
    >>> from lgrpo_lightning.process_tree import ProcessTree
    >>> from lgrpo_lightning.types import Rewards
    >>> tree = ProcessTree.from_sequences([[1, 2], [1], [3], [4]])
    >>> rewards = Rewards(outcome=torch.tensor([1.0, 0.0, 0.0, 0.0]))
    >>> FocalGRPO(scale="none").estimate(rewards, tree).advantages.tolist()
    [[0.5625, 0.5625], [-0.1875, 0.0], [-0.1875, 0.0], [-0.1875, 0.0]]
    """

    takes_penalties: ClassVar[bool] = False

    def __init__(
        self,
        focal_gamma: float = 1.0,
        success_threshold: float = 1.0,
        scale: Scale = "group",
        eps: float = 1e-4,
        lambda_power: Power = 0.0,
    ) -> None:
        super().__init__(scale=scale, eps=eps, lambda_power=lambda_power)
        allowed = 0 <= focal_gamma < math.inf
        require("FocalGRPO: ", locals(), (allowed, "focal_gamma", "a number that is at least 0"))
        self.focal_gamma, self.success_threshold = focal_gamma, success_threshold

    def outcome_advantages(self, outcome: Tensor, deviation: Tensor | None = None) -> Tensor:
        """``[G]`` GRPO's, times (1 - p̂)^γ."""
        pass_rate = reaches(outcome, self.success_threshold).sum() / (~outcome.isnan()).sum().clamp(min=1)
        return super().outcome_advantages(outcome, deviation) * (1 - pass_rate) ** self.focal_gamma
