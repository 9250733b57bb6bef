"""The tokens at which the policy was least decided."""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from lgrpo_lightning.distributed.ranks import Ranks

ROUNDING = 1e-5
"""Nats that entropies of one token may differ by in passes of other shapes. Completions share tokens, so the bound
often falls among equal entropies: all of them are taken, or none."""


def select_high_entropy(entropies: Tensor, taking_part: Tensor, share: float, ranks: Ranks) -> Tensor:
    """``[N, T]`` bool: tokens in the top ``share`` of entropy of an optimizer step, on all ranks. Collective.

    Args:
        entropies: ``[N, T]`` before the update.
        taking_part: ``[N, T]`` bool, the trained tokens of the optimizer step.

    >>> h = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
    >>> select_high_entropy(h, torch.ones(1, 4).bool(), 0.5, Ranks()).tolist()
    [[False, True, False, True]]
    """
    found = ranks.gather(entropies[taking_part].float().cpu())
    everywhere = torch.cat(found[:: len(found) // ranks.world_size])  # of a tensor group one rank
    if not len(everywhere):
        return taking_part
    return entropies >= float(numpy.quantile(everywhere.double().numpy(), 1 - share)) - ROUNDING
