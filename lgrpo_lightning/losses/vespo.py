"""VESPO: REINFORCE weighted by a smooth function of the completion's ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.functional.losses import Normalizer
from lgrpo_lightning.losses.options import check_normalizer, check_number, positive
from lgrpo_lightning.types import LossInput

LOWEST, HIGHEST = math.log(1e-8), 20.0
"""Bounds of the logarithm of a completion's ratio."""


class VESPO(PolicyLoss):
    r"""Weights a completion's gradient by a gamma function of its ratio to the sampler (arXiv:2602.10693).

    .. math:: -\mathrm{sg}[\phi(w_i)] \, A \, \log\pi, \quad \phi(w) = e^{\lambda} w^k e^{-\lambda w},
        \quad w_i = \prod_t \rho_{i,t} \, c_{i,t}

    with φ(1) = 1, the importance correction c of each token for the sampler, and a pair (k, λ) for advantages from 0 on
    and one below.

    Args:
        k_pos, rate_pos: k and λ where the advantage is at least 0.
        k_neg, rate_neg: Where it is below 0. All four defaults are those of the authors.
        normalizer: Divisor of the sum over tokens; null: "token", that of the authors' code.

    Raises:
        ValueError: An option is out of range.

    >>> from lgrpo_lightning.testing import toy_loss_input
    >>> batch = toy_loss_input(ratios=[[1.0, 1.0]], advantages=[[2.0, 2.0]], logprobs=[[-1.0, -0.5]])
    >>> VESPO().terms(batch).tolist()
    [[2.0, 1.0]]
    """

    corrects: ClassVar[bool] = True

    def __init__(
        self,
        k_pos: float = 2.0,
        rate_pos: float = 3.0,
        k_neg: float = 3.0,
        rate_neg: float = 2.0,
        normalizer: Normalizer | None = None,
    ) -> None:
        self.k_pos, self.k_neg = check_number("VESPO", "k_pos", k_pos), check_number("VESPO", "k_neg", k_neg)
        self.rate_pos = positive("VESPO", "rate_pos", rate_pos)
        self.rate_neg = positive("VESPO", "rate_neg", rate_neg)
        self.normalizer = check_normalizer("VESPO", normalizer, "token")

    def terms(self, batch: LossInput) -> Tensor:
        """``[N, T]``."""
        return -self.weights(batch) * batch.advantages * torch.where(batch.mask, batch.logprobs, 0.0)

    @torch.no_grad()
    def weights(self, batch: LossInput) -> Tensor:
        """``[N, T]`` φ of each completion."""
        total = batch.log_ratio.clamp(-HIGHEST, HIGHEST).sum(-1, keepdim=True)
        if batch.importance is not None:
            corrections = batch.importance.log().clamp(LOWEST, HIGHEST)
            total = total + torch.where(batch.mask, corrections, 0.0).sum(-1, keepdim=True)
        log_ratio = total.clamp(LOWEST, HIGHEST)
        k = torch.where(batch.advantages >= 0, self.k_pos, self.k_neg)
        rate = torch.where(batch.advantages >= 0, self.rate_pos, self.rate_neg)
        return (rate + k * log_ratio - rate * log_ratio.exp()).exp().nan_to_num(0.0, 0.0, 0.0)

    def metrics(self, batch: LossInput) -> Mapping[str, Tensor]:
        """The mean weight over completions."""
        first = batch.mask & (batch.mask.cumsum(-1) == 1)
        return {"vespo/phi_seq_mean": torch.where(first, self.weights(batch), torch.nan)}
