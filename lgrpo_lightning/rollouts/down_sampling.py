"""Which completions of a group the update uses: those whose rewards differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Rewards


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
