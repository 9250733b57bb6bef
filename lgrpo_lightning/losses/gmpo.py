"""GMPO: the geometric mean of a completion's clipped ratios."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.functional.losses import Normalizer
from lgrpo_lightning.losses.clipped_surrogate import clip_metrics
from lgrpo_lightning.losses.options import check_normalizer, positive
from lgrpo_lightning.types import LossInput


class GMPO(PolicyLoss):
    r"""Weights completions by the geometric mean of their tokens' clipped ratios (arXiv:2507.20673).

    .. math:: -\Bigl(\prod_t \tilde\rho_{i,t}\Bigr)^{1/|y_i|} A, \quad
        \log\tilde\rho = s \min(s \log\rho,\; \mathrm{clip}(s \log\rho, -\epsilon, \epsilon)),
        \quad s = \mathrm{sign}(A)

    and the mean A of the advantages of the completion's trained tokens. Outliers hardly move such a mean.

    Args:
        log_clip: ε, how far the logarithm of a token's ratio may go before its gradient is cut; the paper's is 0.4.
        normalizer: Divisor of the sum over tokens; null: "sequence", the paper's.

    Raises:
        ValueError: An option is out of range.

    >>> from lgrpo_lightning.testing import toy_loss_input
    >>> batch = toy_loss_input(ratios=[[1.0, 4.0]], advantages=[[1.0, 1.0]])
    >>> [round(x, 4) for x in GMPO(log_clip=10.0).terms(batch)[0].tolist()]
    [-2.0, -2.0]
    """

    level = "sequence"

    def __init__(self, log_clip: float = 0.4, normalizer: Normalizer | None = None) -> None:
        self.log_clip = positive("GMPO", "log_clip", log_clip)
        self.normalizer = check_normalizer("GMPO", normalizer, "sequence")

    def terms(self, batch: LossInput) -> Tensor:
        """``[N, T]``."""
        return -self.ratio(batch) * self.advantages(batch)

    def ratio(self, batch: LossInput) -> Tensor:
        """``[N, T]`` the completion's mean ratio at each of its tokens."""
        sign = torch.where(self.advantages(batch) >= 0, 1.0, -1.0)
        towards = sign * batch.log_ratio
        clipped = sign * torch.minimum(towards, towards.clamp(-self.log_clip, self.log_clip))
        return (clipped.sum(-1, keepdim=True) / batch.lengths).exp().expand_as(batch.logprobs)

    def metrics(self, batch: LossInput) -> Mapping[str, Tensor]:
        """Shares of tokens whose gradient is cut, below and above."""
        return clip_metrics(batch.log_ratio, self.advantages(batch), -self.log_clip, self.log_clip)
