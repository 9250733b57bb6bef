"""Which groups take part in the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lgrpo_lightning.functional import equal_rewards
from lgrpo_lightning.strategies.ranks import Ranks
from lgrpo_lightning.types import RolloutBatch


def applicable(rollout: RolloutBatch, ranks: Ranks, device: torch.device | str = "cpu") -> RolloutBatch:
    """The rollout; without trained groups where no reward applies to any completion on any rank. Collective.

    An optimizer step on it would have a gradient of zero, with which an optimizer's momentum still moves the weights.

    Args:
        device: Where ranks add numbers up.
    """
    judged = sum(int((~rewards.outcome.isnan()).sum()) for rewards in rollout.rewards)
    if int(ranks.sum(torch.tensor(judged, device=device))):
        return rollout
    return replace(rollout, trained=(False,) * len(rollout.groups))


def trained_groups(outcomes: Sequence[Tensor], *, drop_equal: bool) -> tuple[bool, ...]:
    """Which groups take part in the update: all, or those whose rewards are not all equal."""
    return tuple(not (drop_equal and bool(equal_rewards(o[None]))) for o in outcomes)
