"""REINFORCE: the log-prob times the advantage."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.functional.losses import Normalizer
from lgrpo_lightning.losses.options import check_normalizer
from lgrpo_lightning.types import LossInput


class Reinforce(PolicyLoss):
    r"""The policy gradient without ratio or clipping (Williams 1992).

    .. math:: -A \, \log\pi

    On a rollout's first update its gradient is that of every loss here that has ratios; on later ones it takes no
    account of how far the policy has moved.

    Args:
        normalizer: Divisor of the sum over tokens; null: "token".

    >>> from lgrpo_lightning.testing import toy_loss_input
    >>> Reinforce().terms(toy_loss_input(advantages=[[2.0]], logprobs=[[-0.5]])).tolist()
    [[1.0]]
    """

    def __init__(self, normalizer: Normalizer | None = None) -> None:
        self.normalizer = check_normalizer("Reinforce", normalizer, "token")

    def terms(self, batch: LossInput) -> Tensor:
        """``[N, T]``."""
        return -batch.advantages * torch.where(batch.mask, batch.logprobs, 0.0)
