"""Which groups, and which of their completions, the update uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.functional import equal_rewards
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Rewards, Rollout


def trained_groups(rewards: Sequence[Rewards], *, drop_equal: bool) -> tuple[bool, ...]:
    """Which groups take part in the update: all, or those whose rewards are not all equal.

    A group with process rewards takes part if those differ, whatever its outcomes are.
    """
    return tuple(
        not (drop_equal and all(bool(equal_rewards(told.flatten()[None])) for told in _told(r))) for r in rewards
    )


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


def _told(rewards: Rewards) -> list[Tensor]:
    """All that is told of a group."""
    return [told for told in (rewards.outcome, rewards.steps, rewards.tokens) if told is not None]


def choose_varied(outcome: Tensor, count: int) -> tuple[int, ...]:
    """The ``count`` members whose rewards ``[G]`` have the largest variance, in order (PODS, arXiv:2504.13818).

    They are the i members with the smallest rewards and the ``count`` - i with the largest, for the best i. Members to
    which no reward applies are taken only where the others are too few.

    >>> choose_varied(torch.tensor([0.0, 1.0, 0.5, 1.0, 1.0, torch.nan]), 3)
    (0, 3, 4)
    """
    valid = (~outcome.isnan()).nonzero().flatten()
    members = valid[outcome[valid].argsort(stable=True)]
    missing = outcome.isnan().nonzero().flatten()[: max(0, count - len(members))].tolist()
    if (size := count - len(missing)) == 0:
        return tuple(missing)
    splits = torch.stack([torch.cat([members[:i], members[len(members) - size + i :]]) for i in range(size + 1)])
    values = outcome.double()[splits]
    best = int((values - values[:, :1]).var(1, correction=0).argmax())  # centred: equal rewards have exactly 0
    return tuple(sorted([*splits[best].tolist(), *missing]))


def keep_members(rewards: Rewards, tree: ProcessTree, members: Sequence[int]) -> tuple[Rewards, ProcessTree]:
    """Rewards and tree of a group as the estimator sees them: the others have no reward, and train no token.

    So mean, deviation and process sets are those of ``members``: a shared token counts once among the completions that
    are in the loss, as λ weights mean it.
    """
    others = torch.ones(len(rewards.outcome), dtype=torch.bool)
    others[list(members)] = False
    less = replace(
        rewards,
        outcome=rewards.outcome.masked_fill(others, torch.nan),
        parts={name: part.masked_fill(others, torch.nan) for name, part in rewards.parts.items()},
    )
    return less, tree.masked(tree.trained & ~others[:, None])
