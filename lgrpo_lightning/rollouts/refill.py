"""Dynamic sampling: groups without anything to learn from are replaced by groups of further prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lgrpo_lightning.distributed.ranks import DataRank
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Credit, Group, Prompt, Rewards, Rollout


@dataclass(frozen=True, kw_only=True)
class ScoredGroups:
    """Sampled groups with what is known before credit is assigned: one entry a group.

    Attributes:
        groups, trees, rewards: As in ``Rollout``.
        equal: Whether the rewards of the group are all equal, before any KL penalty.
    """

    groups: tuple[Group, ...] = ()
    trees: tuple[ProcessTree, ...] = ()
    rewards: tuple[Rewards, ...] = ()
    equal: tuple[bool, ...] = ()

    def __len__(self) -> int:
        return len(self.groups)

    def at(self, places: Sequence[int]) -> ScoredGroups:
        """The groups at ``places``, in that order."""
        return ScoredGroups(**{name: tuple(values[i] for i in places) for name, values in vars(self).items()})

    def __add__(self, other: ScoredGroups) -> ScoredGroups:
        return ScoredGroups(**{name: (*values, *getattr(other, name)) for name, values in vars(self).items()})

    def with_replaced(self, places: Sequence[int], drawn: ScoredGroups) -> ScoredGroups:
        """These groups, with those of ``drawn`` at ``places``."""
        order = list(range(len(self)))
        for number, place in enumerate(places):
            order[place] = len(self) + number
        return (self + drawn).at(order)

    @property
    def zero_credits(self) -> tuple[Credit, ...]:
        """Credit of the groups' shapes, for groups that are only scored or recorded."""
        none = [torch.zeros(group.mask.shape) for group in self.groups]
        return tuple(Credit(advantages=zeros, weights=zeros) for zeros in none)

    def as_untrained_rollout(self, index: int) -> Rollout | None:
        """A rollout of these groups, none of which takes part in an update; None where there is no group."""
        if not self.groups:
            return None
        return Rollout(
            index=index,
            groups=self.groups,
            trees=self.trees,
            rewards=self.rewards,
            credits=self.zero_credits,
            trained=(False,) * len(self),
        )


def replace_equal_groups(
    scored: ScoredGroups,
    *,
    rounds: int,
    rank: DataRank,
    gather: Callable[[Any], list[Any]],
    further: Callable[[int, set[str]], Sequence[Prompt]],
    draw: Callable[[Sequence[Prompt]], ScoredGroups],
) -> tuple[ScoredGroups, ScoredGroups]:
    """(the groups that are left, those of equal rewards that were replaced) (DAPO, arXiv:2503.14476, section 3.2).

    Each round, the places of such groups on all ranks, in the order of the rollout, take the next of the further
    prompts: which prompt stands where depends on neither the number of ranks nor which of them ask. A place keeps its
    rank. Nothing is sampled twice in a rollout, and a group is replaced even where the next one is no better.

    Args:
        rounds: How often at most.
        rank: This process among those with prompts of their own.
        gather: A value of every one of them, in order. Collective.
        further: So many prompts of the training set without those of the given uids, the same on every rank.
        draw: Samples and scores groups; called on every rank each round, also for no prompts. Collective.
    """
    replaced, seen = ScoredGroups(), set[str]()
    for _ in range(rounds):
        places: list[int] = []  # of groups of equal rewards in the whole rollout
        own = [(group.prompt.uid, equal) for group, equal in zip(scored.groups, scored.equal, strict=True)]
        for other, theirs in enumerate(gather(own)):
            seen.update(uid for uid, _ in theirs)
            places += [i * rank.size + other for i, (_, equal) in enumerate(theirs) if equal]
        found = further(len(places), seen) if places else ()
        if not found:
            break
        pairs = zip(sorted(places), found, strict=False)
        mine = {place // rank.size: prompt for place, prompt in pairs if place % rank.size == rank.rank}
        drawn = draw(list(mine.values()))
        replaced += scored.at(list(mine))
        scored = scored.with_replaced(list(mine), drawn)
    return scored, replaced
