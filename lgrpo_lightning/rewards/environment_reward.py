"""The reward that the environment of an episode returned."""

from __future__ import annotations

import math

import torch

from lgrpo_lightning.contracts import RewardModel
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Completion, Group, Rewards


class EnvironmentReward(RewardModel):
    """Reads the rewards of episodes: one number, or one for each turn, which are also step rewards.

    Of several numbers the outcome is the sum. A turn's reward is that of the process step that the turn ends in, of
    several turns in one step their sum; steps in which no turn ends have none. NaN where the environment pays nothing,
    or the episode was dropped.
    """

    def score(self, group: Group, tree: ProcessTree) -> Rewards:
        """The rewards of one group."""
        if not any(completion.rewards for completion in group.completions):
            raise UserError(
                "EnvironmentReward: the completions are no episodes. Draw them with model.sampler: EnvironmentSampler."
            )
        applicable = [[v for v in r.rewards if not math.isnan(v)] for r in group.completions]
        outcome = torch.tensor([sum(values) if values else math.nan for values in applicable])
        return Rewards(outcome=outcome, steps=self._reward_steps(group, tree), parts={self.name: outcome})

    def _reward_steps(self, group: Group, tree: ProcessTree) -> torch.Tensor | None:
        """In the order of ``tree.steps``: the mean over members that end a turn there; None without such rewards."""
        paid: dict[int, list[float]] = {}
        if not any(len(completion.rewards) > 1 for completion in group.completions):
            return None
        for member, completion in enumerate(group.completions):
            if not completion.applies:
                continue
            spoken = [turn for turn in completion.turns if turn.role == "assistant" and turn.end > turn.start]
            if len(completion.rewards) != len(spoken):
                continue
            for number, value in _sum_by_step(completion, [t.end for t in spoken], tree, member).items():
                if not math.isnan(value):
                    paid.setdefault(number, []).append(value)
        steps = torch.full((len(tree.steps),), math.nan)
        for number, values in paid.items():
            steps[number] = sum(values) / len(values)
        return steps


def _sum_by_step(completion: Completion, ends: list[int], tree: ProcessTree, member: int) -> dict[int, float]:
    sums: dict[int, float] = {}
    for end, value in zip(ends, completion.rewards, strict=True):
        number = int(tree.step_ids[member, end - 1])
        sums[number] = sums.get(number, 0.0) + value
    return sums
