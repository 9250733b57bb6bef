"""The rewards of the λ-GRPO paper's toy task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lgrpo_lightning.contracts import RewardModel
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Group, Rewards


class BinaryTreeReward(RewardModel):
    """1 for the target leaf, ``penalty`` for other leaves that share its first letters, ``otherwise`` for the rest.

    The way to the target leads through leaves that pay less than all others (arXiv:2509.21154, Table 1).

    Args:
        shared: First letters of the target that a leaf has to share for the penalty; in the paper 1 and 2.
        penalty: What such a leaf pays; in the paper -0.5, -1 and -1.5.
        otherwise: What every other leaf pays.
        column: Data column with the target.

    Raises:
        ValueError: ``shared`` is below 1.

    >>> from lgrpo_lightning.testing import toy_group, toy_tree
    >>> group = toy_group(["LRRL", "LRRR", "LLLL", "RRRL"], columns={"target": "LRRL"})
    >>> BinaryTreeReward(shared=2).score(group, toy_tree(group)).outcome.tolist()
    [1.0, -1.0, 0.699999988079071, 0.699999988079071]
    """

    def __init__(self, shared: int = 1, penalty: float = -1.0, otherwise: float = 0.7, column: str = "target") -> None:
        if shared < 1:
            raise UserError(f"BinaryTreeReward: shared is {shared}; it must be at least 1.")
        self.shared, self.penalty, self.otherwise = shared, penalty, otherwise
        self.column = column
        self.columns = (column,)  # type: ignore[misc]

    def check_row(self, row: Mapping[str, Any]) -> None:
        target = row.get(self.column)
        if not isinstance(target, str) or len(target) <= self.shared:
            raise UserError(
                f"BinaryTreeReward: column {self.column!r} is {target!r}; it must be a text of more than "
                f"shared={self.shared} letters."
            )

    def score(self, group: Group, tree: ProcessTree) -> Rewards:
        """The rewards, and as a metric the share of completions that are the target."""
        target = str(group.prompt.columns[self.column])
        texts = [completion.text for completion in group.completions]
        outcome = torch.tensor([self._reward(text, target) for text in texts])
        share = texts.count(target) / len(texts)
        return Rewards(outcome=outcome, parts={self.name: outcome}, metrics={f"rewards/{self.name}/target": share})

    def _reward(self, text: str, target: str) -> float:
        if text == target:
            return 1.0
        return self.penalty if text.startswith(target[: self.shared]) else self.otherwise
