"""Dynamic sampling: groups without anything to learn from are replaced by groups of further prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lgrpo_lightning.distributed.ranks import find_data_rank, gather_data_ranks
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


@dataclass(frozen=True, kw_only=True)
class Refill:
    """Replaces groups of equal rewards, round by round, wherever they lie (DAPO, arXiv:2503.14476, section 3.2).

    Each round, the places of such groups on all ranks, in the order of the rollout, take the next of the further
    prompts: which prompt stands where depends on neither the number of ranks nor which of them ask. A place keeps its
    rank. Nothing is sampled twice in a rollout, and a group is replaced even where the next one is no better.

    Attributes:
        rounds: How often at most.
        rank, size: This process among those with prompts of their own.
        gather: A value of every one of them, in order. Collective.
        further: So many prompts of the training set without those of the given uids, the same on every rank.
        draw: Samples and scores groups; called on every rank each round, also for no prompts. Collective.
    """

    rounds: int
    rank: int
    size: int
    gather: Callable[[Any], list[Any]]
    further: Callable[[int, set[str]], Sequence[Prompt]]
    draw: Callable[[Sequence[Prompt]], ScoredGroups]

    def __call__(self, scored: ScoredGroups) -> tuple[ScoredGroups, ScoredGroups]:
        """(the groups that are left, those that were replaced)."""
        replaced, seen = ScoredGroups(), set[str]()
        for _ in range(self.rounds):
            empty = self._empty(scored, seen)
            found = self.further(len(empty), seen) if empty else ()
            if not found:
                break
            mine = {
                place // self.size: prompt
                for place, prompt in zip(empty, found, strict=False)
                if place % self.size == self.rank
            }
            drawn = self.draw(list(mine.values()))
            replaced += scored.at(list(mine))
            scored = _with(scored, list(mine), drawn)
        return scored, replaced

    def _empty(self, scored: ScoredGroups, seen: set[str]) -> list[int]:
        """Places of groups of equal rewards in the whole rollout; adds the uids of all groups to ``seen``."""
        own = [(group.prompt.uid, equal) for group, equal in zip(scored.groups, scored.equal, strict=True)]
        places = []
        for rank, theirs in enumerate(self.gather(own)):
            seen.update(uid for uid, _ in theirs)
            places += [i * self.size + rank for i, (_, equal) in enumerate(theirs) if equal]
        return sorted(places)


def replace_equal_groups(
    trainer: Any, scored: ScoredGroups, *, rounds: int, draw: Callable[[Sequence[Prompt]], ScoredGroups]
) -> tuple[ScoredGroups, ScoredGroups]:
    """(the groups that are left, those that were replaced), with the ranks and prompts of a Trainer: see ``Refill``."""
    data = find_data_rank(trainer)
    return Refill(
        rounds=rounds,
        rank=data.rank,
        size=data.size,
        gather=lambda value: gather_data_ranks(trainer, value),
        further=lambda count, without: trainer.datamodule.draw_further_prompts(count, without),
        draw=draw,
    )(scored)


def _with(scored: ScoredGroups, places: Sequence[int], drawn: ScoredGroups) -> ScoredGroups:
    """``scored`` with the groups of ``drawn`` at ``places``."""
    order = list(range(len(scored)))
    for number, place in enumerate(places):
        order[place] = len(scored) + number
    return (scored + drawn).at(order)
