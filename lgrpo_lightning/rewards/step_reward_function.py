"""A function that scores process steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lgrpo_lightning.process_tree import Step
from lgrpo_lightning.rewards.function_call import FunctionCall
from lgrpo_lightning.rewards.reward_function import RewardFunction
from lgrpo_lightning.types import Group, Rewards


@dataclass(frozen=True, kw_only=True)
class StepCall(FunctionCall):
    """The process steps that a function scores in one call; the outcome does not apply."""

    passed: ClassVar[tuple[str, ...]] = ("prompts", "steps", "prefixes", "trainer_state", "log_metric")
    each: ClassVar[str] = "step"

    @cached_property
    def sizes(self) -> list[int]:
        return [len(tree.steps) for tree in self.trees]

    def describe_scored(self) -> dict[str, Any]:
        pairs = self._list_steps()
        return {
            "steps": [find_step_text(group, step) for group, step in pairs],
            "prefixes": [find_step_prefix(group, step) for group, step in pairs],
        }

    def make_rewards(self, number: int, values: Tensor, metrics: dict[str, float]) -> Rewards:
        none = torch.full((len(self.groups[number]),), math.nan)
        return Rewards(outcome=none, steps=values, parts={self.name: none}, metrics=metrics)

    def name_scored(self, number: int) -> str:
        group, step = self._list_steps()[number]
        return f"step {find_step_text(group, step)[:80]!r} of prompt {group.prompt.uid!r}"

    def _list_steps(self) -> list[tuple[Group, Step]]:
        return [(g, step) for g, tree in zip(self.groups, self.trees, strict=True) for step in tree.steps]


def find_step_text(group: Group, step: Step) -> str:
    """The text of a step, as its first member has it.

    >>> from lgrpo_lightning.testing import toy_group, toy_tree
    >>> group = toy_group(["ab", "ac"])
    >>> [find_step_text(group, step) for step in toy_tree(group).steps]
    ['a', 'b', 'c']
    """
    return group.completions[step.members[0]].text_between(*step.spans[0])


def find_step_prefix(group: Group, step: Step) -> str:
    """The completion's text before a step, as its first member has it."""
    return group.completions[step.members[0]].text_between(0, step.spans[0][0])


class StepRewardFunction(RewardFunction):
    """Calls a function with every process step of a rollout, a step that several completions share once.

    The function gets keyword arguments, each list with one entry per step: ``steps`` (the text of the step),
    ``prefixes`` (the completion's text before it), ``prompts`` (strings, or for chats lists of messages), one list for
    each data column, and ``trainer_state`` and ``log_metric(name, value)``. It returns a list of numbers; None means
    "does not apply". It may be ``async``. It is called once per rollout. What a step is, the segmenter says:
    ``DelimiterSegmenter`` makes it a line.

    The rewards are ``Rewards.steps``, for ``ProcessGRPO`` and ``BlendedGRPO``; the outcome does not apply.

    Raises:
        ValueError: The function cannot take these arguments.

    >>> from lgrpo_lightning.testing import toy_group
    >>> from lgrpo_lightning.segmenters import DelimiterSegmenter
    >>> def long_lines(steps, prefixes, **kwargs):
    ...     return [float(len(step.strip()) > 1) for step in steps]
    >>> group = toy_group(["aa\\nb", "aa\\ncc"])
    >>> StepRewardFunction(long_lines).score_batch([group], [DelimiterSegmenter().segment(group)])[0].steps.tolist()
    [1.0, 0.0, 1.0]
    """

    call_type: ClassVar[type[FunctionCall]] = StepCall
