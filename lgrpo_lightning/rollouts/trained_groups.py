"""Which groups take part in the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.functional import equal_rewards
from lgrpo_lightning.types import Rewards, Rollout


def skip_if_unrewarded(rollout: Rollout, ranks: Ranks, device: torch.device | str = "cpu") -> Rollout:
    """The rollout; none of its groups is trained if no reward applies to any completion on any rank. Collective.

    An optimizer step on it would have a gradient of zero, with which an optimizer's momentum still moves the weights.

    Args:
        device: Where ranks add numbers up.
    """
    applying = sum(int((~told.isnan()).sum()) for rewards in rollout.rewards for told in _told(rewards))
    if int(ranks.sum(torch.tensor(applying, device=device))):
        return rollout
    return replace(rollout, trained=(False,) * len(rollout.groups))


def trained_groups(rewards: Sequence[Rewards], *, drop_equal: bool) -> tuple[bool, ...]:
    """Which groups take part in the update: all, or those whose rewards are not all equal.

    A group with process rewards takes part if those differ, whatever its outcomes are.
    """
    return tuple(not (drop_equal and all(_equal(told) for told in _told(r))) for r in rewards)


def _equal(told: Tensor) -> bool:
    """Whether all that apply are the same."""
    return bool(equal_rewards(told.flatten()[None]))


def _told(rewards: Rewards) -> list[Tensor]:
    """All that is told of a group."""
    return [told for told in (rewards.outcome, rewards.steps, rewards.tokens) if told is not None]
