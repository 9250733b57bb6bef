"""SAPO: a soft gate in place of clipping."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.functional.losses import Normalizer
from lgrpo_lightning.losses.options import check_normalizer, positive
from lgrpo_lightning.types import LossInput


class SAPO(PolicyLoss):
    r"""The ratio through a sigmoid of slope 1 at 1: gradients decrease smoothly, without clipping (arXiv:2511.20347).

    .. math:: -\frac{4}{\tau} \, \sigma(\tau (\rho - 1)) \, A, \quad \tau = \tau_{pos} \text{ where } A > 0,
        \text{ else } \tau_{neg}

    Args:
        temperature_pos, temperature_neg: τ: the larger, the sooner gradients fade; above 0.
        normalizer: Divisor of the sum over tokens; null: "sequence", the paper's.

    Raises:
        ValueError: An option is out of range.

    >>> from lgrpo_lightning.testing import toy_loss_input
    >>> batch = toy_loss_input(ratios=[[1.0, 1.0]], advantages=[[1.0, -1.0]])
    >>> [round(x, 4) for x in SAPO(temperature_neg=2.0).terms(batch)[0].tolist()]
    [-2.0, 1.0]
    """

    def __init__(
        self,
        temperature_pos: float = 1.0,
        temperature_neg: float = 1.05,
        normalizer: Normalizer | None = None,
    ) -> None:
        self.temperature_pos = positive("SAPO", "temperature_pos", temperature_pos)
        self.temperature_neg = positive("SAPO", "temperature_neg", temperature_neg)
        self.normalizer = check_normalizer("SAPO", normalizer, "sequence")

    def terms(self, batch: LossInput) -> Tensor:
        """``[N, T]``."""
        tau = torch.where(batch.advantages > 0, self.temperature_pos, self.temperature_neg)
        return -(tau * (self.ratio(batch) - 1)).sigmoid() * 4 / tau * batch.advantages
