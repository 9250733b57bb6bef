"""Rewards completions of a given form."""

from __future__ import annotations

import re
from typing import Literal

import torch
from torch import Tensor

from lgrpo_lightning.contracts import RewardModel
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards.opening import complete_tags
from lgrpo_lightning.types import Group


class FormatMatch(RewardModel):
    """Matches completions against a regular expression.

    Where the prompt ends with a tag, as templates do that open ``<think>`` for the model, and the completion closes it,
    the tag counts as the beginning of the completion. Nothing else of the prompt does, nor what an environment says.

    Args:
        pattern: The regular expression; its dot matches newlines too. White space around the completion is
            ignored.
        reward: Reward of a completion that matches.
        otherwise: Reward of one that does not.
        match: "full" asks that the whole completion matches, "search" that a part of it does.

    Raises:
        ValueError: ``pattern`` is no regular expression, or ``match`` is none of the above.

    >>> from lgrpo_lightning.testing import toy_group, toy_tree
    >>> group = toy_group(["<think>1</think> 2", "2"])
    >>> FormatMatch(r"<think>.*</think>.*").score(group, toy_tree(group)).tolist()
    [1.0, 0.0]
    """

    def __init__(
        self, pattern: str, reward: float = 1.0, otherwise: float = 0.0, match: Literal["full", "search"] = "full"
    ) -> None:
        if match not in ("full", "search"):
            raise UserError(f"FormatMatch: match is {match!r}; possible are 'full' and 'search'.")
        try:
            compiled = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise UserError(
                f"FormatMatch: pattern is {pattern!r}, which is no valid regular expression: {error}. Escape "
                "characters that are meant literally, such as '\\(' for a bracket."
            ) from error
        self.pattern = pattern
        self.reward = reward
        self.otherwise = otherwise
        self._match = compiled.fullmatch if match == "full" else compiled.search

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        return torch.tensor(
            [self.reward if self._match(text.strip()) else self.otherwise for text in complete_tags(group)]
        )
