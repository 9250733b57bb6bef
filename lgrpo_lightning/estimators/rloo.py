"""RLOO: a completion against the mean of the others."""

from __future__ import annotations

from torch import Tensor

from lgrpo_lightning.estimators.grpo import Power, WeightedGRPO
from lgrpo_lightning.functional import group_advantages


class RLOO(WeightedGRPO):
    r"""REINFORCE with the leave-one-out baseline (arXiv:2402.14740).

    .. math:: A_{i,t} = r_i - \frac{1}{n-1} \sum_{j \ne i} r_j = \frac{n}{n-1} (r_i - \mathrm{mean}(r)),
        \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    over the n completions of the group whose reward applies. The baseline does not depend on the completion, so that
    the estimate of the gradient has no bias. Nothing is divided by a deviation. Groups of equal rewards, or of one
    completion, give exactly 0. The paper puts the KL penalty into the reward; here it belongs to the loss.

    Args:
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.

    >>> import torch
    >>> from lgrpo_lightning.process_tree import ProcessTree
    >>> from lgrpo_lightning.types import Rewards
    >>> tree = ProcessTree.from_sequences([[1, 2], [1], [3]])
    >>> RLOO().estimate(Rewards(outcome=torch.tensor([2.0, 1.0, 0.0])), tree).advantages.tolist()
    [[1.5, 1.5], [0.0, 0.0], [-1.5, 0.0]]
    """

    def __init__(self, lambda_power: Power = 0.0) -> None:
        super().__init__(scale="none", lambda_power=lambda_power)

    def outcome_advantages(self, outcome: Tensor, deviation: Tensor | None = None) -> Tensor:
        """``[G]`` the distance of each reward from the mean of the others."""
        valid = (~outcome.isnan()).sum()
        return group_advantages(outcome[None], scale="none")[0] * (valid / (valid - 1).clamp(min=1))
