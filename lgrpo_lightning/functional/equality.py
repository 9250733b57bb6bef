"""When rewards are equal, and when one reaches a threshold: one tolerance for all that compares rewards."""

from __future__ import annotations

import torch
from torch import Tensor

RELATIVE = 1.2e-7
"""Largest difference that is rounding, as a share of the larger number: one unit in the last place of fp32."""

ABSOLUTE = 1e-8
"""The same beside numbers near 0, as 0.1 + 0.2 - 0.3 in fp32."""


def close(a: Tensor, b: Tensor) -> Tensor:
    """bool: where two rewards differ by rounding at most; NaN is close to nothing.

    >>> close(torch.tensor([1000.1 + 2000.2, 1.0]), torch.tensor([3000.3, 1.1])).tolist()
    [True, False]
    """
    a, b = a.double(), b.double()
    return (a - b).abs() <= ABSOLUTE + RELATIVE * torch.maximum(a.abs(), b.abs())


def reaches(rewards: Tensor, threshold: float) -> Tensor:
    """bool: where a reward is at least ``threshold``, or short of it by rounding; False for NaN.

    >>> reaches(torch.tensor([0.99999994, 0.999, torch.nan]), 1.0).tolist()
    [True, False, False]
    """
    return (rewards >= threshold) | close(rewards, torch.tensor(threshold, dtype=torch.double))


def equal_rewards(rewards: Tensor) -> Tensor:
    """``[B]`` bool: the valid rewards of each row are all equal but for rounding, or fewer than two.

    >>> equal_rewards(torch.tensor([[0.7, 0.7, float("nan")], [0.0, 1.0, 1.0]])).tolist()
    [True, False]
    """
    rewards = rewards.double()
    valid = ~rewards.isnan()
    low = torch.where(valid, rewards, torch.inf).amin(-1)
    high = torch.where(valid, rewards, -torch.inf).amax(-1)
    return close(low, high)
