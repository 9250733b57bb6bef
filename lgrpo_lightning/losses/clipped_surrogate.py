"""The clipped surrogate of PPO, GRPO, DAPO and Dr.GRPO."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.functional import clipped_surrogate
from lgrpo_lightning.functional.losses import Normalizer
from lgrpo_lightning.losses.options import check_normalizer, check_number
from lgrpo_lightning.types import LossInput


class ClippedSurrogate(PolicyLoss):
    r"""The ratio times the advantage, with no gradient once the ratio leaves the clip range (arXiv:1707.06347).

    .. math:: -\min(\min(\rho, \delta) A,\; \mathrm{clip}(\rho, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A),
        \quad \rho_{i,t} = \pi(y_{i,t}) / \pi_{old}(y_{i,t})

    GRPO (arXiv:2402.03300) takes the normaliser "sequence"; DAPO (arXiv:2503.14476) "token" and a larger
    ``clip_high``, 0.28; Dr.GRPO (arXiv:2503.20783) "constant".

    Args:
        clip_low: How far the ratio may fall below 1 before a token's gradient is cut; from 0 to 1.
        clip_high: How far it may rise above 1; larger than ``clip_low`` leaves more room to explore.
        delta: Largest ratio where the advantage is negative (dual clip); above 1 + clip_high. Null: unbounded.
        normalizer: "token" divides by all tokens of the optimizer step, "sequence" averages each completion first,
            "constant" divides by completions x max_new_tokens, "completion" by completions. Null: "token".

    Raises:
        ValueError: An option is out of range.

    >>> import torch
    >>> from lgrpo_lightning.testing import toy_loss_input
    >>> batch = toy_loss_input(ratios=[[1.5, 1.5, 4.0]], advantages=[[1.0, -1.0, -1.0]])
    >>> [round(x, 4) for x in ClippedSurrogate(delta=3.0).terms(batch)[0].tolist()]
    [-1.2, 1.5, 3.0]
    """

    def __init__(
        self,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        delta: float | None = None,
        normalizer: Normalizer | None = None,
    ) -> None:
        self.clip_low = check_number("ClippedSurrogate", "clip_low", clip_low, high=1.0)
        self.clip_high = check_number("ClippedSurrogate", "clip_high", clip_high)
        self.delta = None if delta is None else check_number("ClippedSurrogate", "delta", delta, low=1 + clip_high)
        self.normalizer = check_normalizer("ClippedSurrogate", normalizer, "token")

    def terms(self, batch: LossInput) -> Tensor:
        """``[N, T]``."""
        return clipped_surrogate(
            batch.logprobs,
            batch.old_logprobs,
            batch.advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            delta=self.delta,
        )

    def metrics(self, batch: LossInput) -> Mapping[str, Tensor]:
        """Shares of tokens whose gradient is cut, below and above."""
        return clip_metrics(self.ratio(batch), batch.advantages, 1 - self.clip_low, 1 + self.clip_high)


def clip_metrics(ratio: Tensor, advantages: Tensor, lowest: float, highest: float) -> dict[str, Tensor]:
    """What is cut below ``lowest`` and above ``highest``, under TRL's names."""
    low, high = (ratio < lowest) & (advantages < 0), (ratio > highest) & (advantages > 0)
    return {
        "clip_ratio/low_mean": low,
        "clip_ratio/high_mean": high,
        "clip_ratio/region_mean": low | high,
    }
