"""Group-relative advantages."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lgrpo_lightning.functional.equality import equal_rewards


def group_advantages(rewards: Tensor, *, scale: Literal["group", "none"] = "group", eps: float = 1e-4) -> Tensor:
    r"""Advantage of every completion against its group (GRPO, arXiv:2402.03300, equation 4.1.2).

    .. math:: a_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r) + \epsilon}

    with Bessel's correction in the standard deviation, in float64. A group whose rewards are all equal, or that has
    fewer than two, gives exactly 0. NaN rewards are not in mean and deviation and get 0.

    Args:
        rewards: ``[B, G]``, one row a group; NaN = "does not apply".
        scale: "group" divides by the group's deviation, "none" does not (Dr.GRPO, arXiv:2503.20783).
        eps: Added to the deviation.

    Returns:
        ``[B, G]`` fp32.

    >>> group_advantages(torch.tensor([[0.0, 1.0, 2.0]]), eps=0.0).tolist()
    [[-1.0, 0.0, 1.0]]
    >>> group_advantages(torch.tensor([[0.7, 0.7, 0.7]])).tolist()
    [[0.0, 0.0, 0.0]]
    """
    if scale not in ("group", "none"):
        raise ValueError(f"scale is {scale!r}; possible are 'group' and 'none'.")
    rewards = rewards.double()
    valid = ~rewards.isnan()
    filled, count = torch.where(valid, rewards, 0.0), valid.sum(-1, keepdim=True)
    keep = valid & ~equal_rewards(rewards)[..., None]
    centred = torch.where(keep, filled - filled.sum(-1, keepdim=True) / count.clamp(min=1), 0.0)
    if scale == "none":
        return centred.float()
    variance = centred.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return (centred / (variance.sqrt() + eps)).float()
