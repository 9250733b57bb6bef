"""GSPO: the ratio of a whole completion in place of each token's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.functional.losses import Normalizer
from lgrpo_lightning.losses.clipped_surrogate import clip_metrics
from lgrpo_lightning.losses.options import check_normalizer, check_number
from lgrpo_lightning.types import LossInput


class GSPO(PolicyLoss):
    r"""Clips the geometric mean of a completion's ratios (arXiv:2507.18071).

    .. math:: -\min(s_i A,\; \mathrm{clip}(s_i, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A),
        \quad s_i = \Bigl(\prod_t \rho_{i,t}\Bigr)^{1/|y_i|}

    with the mean A of the advantages of the completion's trained tokens.

    Its token form (GSPO-token) has the same values, but a gradient for each token by itself, so that tokens of one
    completion may have advantages and weights of their own:

    .. math:: s_{i,t} = \mathrm{sg}[s_i] \; \pi(y_{i,t}) / \mathrm{sg}[\pi(y_{i,t})]

    Args:
        clip_range_low, clip_range_high: How far s may be from 1 before a completion's gradient is cut: the paper's are
            a hundredth of those of token ratios.
        token: The token form. λ weights need it: a completion with one ratio has no tokens to weigh.
        normalizer: Divisor of the sum over tokens; null: "sequence", the paper's.

    Raises:
        ValueError: An option is out of range.

    >>> from lgrpo_lightning.testing import toy_loss_input
    >>> batch = toy_loss_input(ratios=[[1.0, 4.0]], advantages=[[1.0, 1.0]])
    >>> [round(x, 4) for x in GSPO(clip_range_high=10.0).terms(batch)[0].tolist()]
    [-2.0, -2.0]
    """

    def __init__(
        self,
        clip_range_low: float = 3e-4,
        clip_range_high: float = 4e-4,
        token: bool = False,
        normalizer: Normalizer | None = None,
    ) -> None:
        name = type(self).__name__
        self.clip_range_low = check_number(name, "clip_range_low", clip_range_low, high=1.0)
        self.clip_range_high = check_number(name, "clip_range_high", clip_range_high)
        self.token, self.level = token, "token" if token else "sequence"
        self.normalizer = check_normalizer(name, normalizer, "sequence")

    def terms(self, batch: LossInput) -> Tensor:
        """``[N, T]``."""
        ratio, advantages = self.ratio(batch), self.advantages(batch)
        clipped = ratio.clamp(1 - self.clip_range_low, 1 + self.clip_range_high)
        return -torch.minimum(ratio * advantages, clipped * advantages)

    def ratio(self, batch: LossInput) -> Tensor:
        """``[N, T]`` the completion's ratio at each of its tokens."""
        mean = batch.log_ratio.sum(-1, keepdim=True) / batch.lengths
        if self.token:
            own = torch.where(batch.mask, batch.logprobs, 0.0)
            return (mean.detach() + own - own.detach()).exp()
        return mean.exp().expand_as(batch.logprobs)

    def metrics(self, batch: LossInput) -> Mapping[str, Tensor]:
        """Shares of tokens in completions whose gradient is cut, below and above."""
        low, high = 1 - self.clip_range_low, 1 + self.clip_range_high
        return clip_metrics(self.ratio(batch), self.advantages(batch), low, high)
