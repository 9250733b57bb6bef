"""Group-relative advantages."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def group_advantages(
    rewards: Tensor, *, scale: Literal["group", "none"] = "group", eps: float = 1e-4
) -> Tensor:
    r"""Advantage of every completion against its group (GRPO, arXiv:2402.03300, equation 4.1.2).

    .. math:: a_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r) + \epsilon}

    with Bessel's correction in the standard deviation. A group whose rewards are all equal, or that has fewer
    than two, gives exactly 0. NaN rewards leave mean and deviation and get 0.

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
    centred, valid = _centred(rewards)
    if scale == "none":
        return centred
    if scale != "group":
        raise ValueError(f"scale is {scale!r}; possible are 'group' and 'none'.")
    count = valid.sum(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return centred / (variance.sqrt() + eps)


def _centred(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """(rewards minus their group's mean, which are valid); exactly 0 where invalid or all equal."""
    rewards = rewards.float()
    valid = ~rewards.isnan()
    filled = torch.where(valid, rewards, 0.0)
    mean = filled.sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp(min=1)
    keep = valid & ~equal_rewards(rewards)[..., None]
    return torch.where(keep, filled - mean, 0.0), valid


def equal_rewards(rewards: Tensor) -> Tensor:
    """``[B]`` bool: the group's valid rewards are all equal, or fewer than two; found by comparison.

    >>> equal_rewards(torch.tensor([[0.7, 0.7, float("nan")], [0.0, 1.0, 1.0]])).tolist()
    [True, False]
    """
    valid = ~rewards.isnan()
    low = torch.where(valid, rewards, torch.inf).amin(-1)
    high = torch.where(valid, rewards, -torch.inf).amax(-1)
    return low >= high
