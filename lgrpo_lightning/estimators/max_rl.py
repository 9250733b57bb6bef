"""MaxRL: advantages divided by the group's mean reward."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.estimators.grpo import Power, WeightedGRPO
from lgrpo_lightning.functional import group_advantages, reaches


class MaxRL(WeightedGRPO):
    r"""Maximum likelihood reinforcement learning: rare successes count more (arXiv:2602.02710).

    .. math:: A_{i,t} = \frac{r_i - \mathrm{mean}(r)}{\mathrm{mean}(r) + \epsilon},
        \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    For rewards of 0 and 1 the mean is the rate of success, and 1 over it turns the gradient of the rate into that of
    its logarithm, up to the order that the group's size allows. Formula and ε are those of the authors' code. Groups of
    equal rewards give exactly 0.

    Args:
        mean_eps: ε, added to the mean; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.

    Raises:
        ValueError: An argument is out of range; or, when estimating, a reward is below 0, where the mean is no rate.

    >>> import torch
    >>> from lgrpo_lightning.process_tree import ProcessTree
    >>> from lgrpo_lightning.types import Rewards
    >>> tree = ProcessTree.from_sequences([[1, 2], [1], [3], [4]])
    >>> found = MaxRL().estimate(Rewards(outcome=torch.tensor([1.0, 0.0, 0.0, 0.0])), tree).advantages
    >>> [[round(a, 3) for a in row] for row in found.tolist()]
    [[3.0, 3.0], [-1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]
    """

    takes_penalties: ClassVar[bool] = False

    def __init__(self, mean_eps: float = 1e-6, lambda_power: Power = 0.0) -> None:
        super().__init__(scale="none", lambda_power=lambda_power)
        if not mean_eps > 0:
            raise UserError(f"MaxRL: mean_eps is {mean_eps!r}; it must be above 0, such as 1e-6.")
        self.mean_eps = mean_eps

    def outcome_advantages(self, outcome: Tensor, deviation: Tensor | None = None) -> Tensor:
        """``[G]`` distances from the mean, in units of it.

        Raises:
            ValueError: A reward is below 0.
        """
        if bool((~outcome.isnan() & ~reaches(outcome, 0.0)).any()):
            raise UserError(
                f"MaxRL divides by the group's mean reward, so that rewards must be at least 0; got "
                f"{outcome.tolist()}. Shift them, such as 0 and 1 for -1 and 1, or take GRPO or RLOO."
            )
        centred = group_advantages(outcome[None], scale="none")[0]
        return (centred / (outcome.double().nanmean() + self.mean_eps)).nan_to_num(0.0)
