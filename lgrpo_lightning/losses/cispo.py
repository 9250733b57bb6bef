"""CISPO: the clipped ratio is a weight of the gradient, which is never 0."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.functional.losses import Normalizer
from lgrpo_lightning.losses.options import check_normalizer, positive
from lgrpo_lightning.types import LossInput


class CISPO(PolicyLoss):
    r"""REINFORCE weighted by the ratio up to a bound: no token loses its gradient (MiniMax-M1, arXiv:2506.13585).

    .. math:: -\mathrm{sg}[\min(\rho, \rho_{max})] \, A \, \log\pi

    The paper bounds the ratio above only, and does not name the bound; 5 is that of ScaleRL (arXiv:2510.13786).

    Args:
        ratio_max: ρ_max, the largest weight; above 0.
        normalizer: Divisor of the sum over tokens; null: "token", the paper's.

    Raises:
        ValueError: An option is out of range.

    >>> from lgrpo_lightning.testing import toy_loss_input
    >>> batch = toy_loss_input(ratios=[[2.0, 9.0]], advantages=[[1.0, 1.0]], logprobs=[[-1.0, -1.0]])
    >>> [round(x, 4) for x in CISPO().terms(batch)[0].tolist()]
    [2.0, 5.0]
    """

    def __init__(self, ratio_max: float = 5.0, normalizer: Normalizer | None = None) -> None:
        self.ratio_max = positive("CISPO", "ratio_max", ratio_max)
        self.normalizer = check_normalizer("CISPO", normalizer, "token")

    def terms(self, batch: LossInput) -> Tensor:
        """``[N, T]``."""
        weights = self.ratio(batch).clamp(max=self.ratio_max).detach()
        return -weights * batch.advantages * torch.where(batch.mask, batch.logprobs, 0.0)

    def metrics(self, batch: LossInput) -> Mapping[str, Tensor]:
        """The share of tokens whose weight is at its bound."""
        return {"cispo_clip_ratio": (self.ratio(batch) > self.ratio_max) & (batch.advantages > 0)}
