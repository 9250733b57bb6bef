"""Normalising process rewards, and what is still to come of them."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrpo_lightning.functional.equality import equal_rewards


def normalise(values: Tensor, pool: Tensor, *, scale: bool, eps: float) -> Tensor:
    """``values`` less the mean of ``pool``, divided by its deviation (Bessel), fp64; NaN stays, an equal pool gives 0.

    >>> normalise(torch.tensor([0.0, torch.nan, 2.0]), torch.tensor([0.0, 2.0]), scale=False, eps=1e-4).tolist()
    [-1.0, nan, 1.0]
    """
    pool, values = pool[~pool.isnan()].double(), values.double()
    if not len(pool) or bool(equal_rewards(pool[None])):
        return torch.where(values.isnan(), values, 0.0)
    centred = values - pool.mean()
    return centred / (pool.std() + eps) if scale else centred


def sums_to_come(values: Tensor) -> Tensor:
    """The sum of each value and of all later ones in its row; NaN counts 0.

    >>> sums_to_come(torch.tensor([[1.0, torch.nan, 2.0]])).tolist()
    [[3.0, 2.0, 2.0]]
    """
    return values.nan_to_num(0.0).flip(-1).cumsum(-1).flip(-1)


def minima_to_come(values: Tensor) -> Tensor:
    """The smallest of each value and of all later ones in its row; NaN where none follows.

    >>> minima_to_come(torch.tensor([[1.0, torch.nan, 2.0, torch.nan]])).tolist()
    [[1.0, 2.0, 2.0, nan]]
    """
    least = torch.where(values.isnan(), torch.inf, values).flip(-1).cummin(-1).values.flip(-1)
    return least.masked_fill(least == torch.inf, torch.nan)
