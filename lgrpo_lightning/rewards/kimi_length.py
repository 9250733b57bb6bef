"""A reward for what is right that also prefers short completions over long ones of the same prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.contracts import RewardModel, WeightSource
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.functional import reaches
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards.exact_match import ExactMatch
from lgrpo_lightning.types import Group, Progress, Rewards


class KimiLengthReward(RewardModel):
    r"""Kimi k1.5's length reward around a reward for correctness (arXiv:2501.12599, section 2.3.3).

    .. math:: r_i + c \begin{cases} \lambda_i & r_i \ge \text{threshold} \\ \min(0, \lambda_i) & \text{else}
        \end{cases}, \qquad \lambda_i = \frac{1}{2} - \frac{|y_i| - \min_j |y_j|}{\max_j |y_j| - \min_j |y_j|}

    over the completions of a group, lengths in tokens; no length reward where all are of one length. Where the inner
    reward does not apply, this does not either; an episode that was dropped is not among the group's lengths.

    Args:
        reward_model: Says what is right. Default ``ExactMatch()``.
        coefficient: c, how much length counts; at least 0. With 1, what is right gets from 0.5 to 1.5.
        threshold: A completion is right where the inner reward is at least this.

    Raises:
        ValueError: ``coefficient`` is below 0.

    >>> from lgrpo_lightning.testing import toy_group, toy_tree
    >>> group = toy_group(["2", "1+1=2", "3", "it is 333"], columns={"answer": 2})  # 1, 5, 1 and 9 tokens
    >>> KimiLengthReward().score_batch([group], [toy_tree(group)])[0].outcome.tolist()
    [1.5, 1.0, 0.0, -0.5]
    """

    def __init__(
        self, reward_model: RewardModel | None = None, coefficient: float = 1.0, threshold: float = 1.0
    ) -> None:
        if not coefficient >= 0:
            raise UserError(f"KimiLengthReward: coefficient is {coefficient}; it must be at least 0.")
        self.reward_model = reward_model or ExactMatch()
        self.coefficient, self.threshold = coefficient, threshold
        self.columns = tuple(self.reward_model.columns)  # type: ignore[misc]

    def setup(self, source: WeightSource) -> None:
        self.reward_model.setup(source)

    def check_row(self, row: Mapping[str, Any]) -> None:
        self.reward_model.check_row(row)

    def start(self, progress: Progress) -> None:
        self.reward_model.start(progress)

    def teardown(self) -> None:
        self.reward_model.teardown()

    def score_batch(self, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
        inner = self.reward_model.score_batch(groups, trees)
        return [self._add_length(group, rewards) for group, rewards in zip(groups, inner, strict=True)]

    def _add_length(self, group: Group, rewards: Rewards) -> Rewards:
        length = self._compute_length_reward(group, rewards.outcome)
        parts = rewards.parts or {self.reward_model.name: rewards.outcome}
        return replace(
            rewards,
            outcome=(rewards.outcome.double() + self.coefficient * length).float(),
            parts={**parts, self.name: length},
            part_weights={**rewards.part_weights, self.name: self.coefficient},
        )

    def _compute_length_reward(self, group: Group, outcome: Tensor) -> Tensor:
        """``[G]`` before the coefficient; NaN where the inner reward does not apply."""
        lengths = torch.tensor([len(r) for r in group.completions], dtype=torch.float32)
        there = lengths[group.applies] if group.applies.any() else lengths
        spread = there.max() - there.min()
        value = 0.5 - (lengths - there.min()) / spread if spread > 0 else torch.zeros_like(lengths)
        value = torch.where(reaches(outcome, self.threshold), value, value.clamp(max=0.0))
        return torch.where(outcome.isnan() | ~group.applies, torch.nan, value)
