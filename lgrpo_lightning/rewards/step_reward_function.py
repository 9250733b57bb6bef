"""A function that scores process steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from lgrpo_lightning.process_tree import ProcessTree, Step
from lgrpo_lightning.rewards.function_call import FunctionCall
from lgrpo_lightning.rewards.reward_function import RewardFunction
from lgrpo_lightning.types import Group, Progress, Rewards

STEP_ARGUMENTS = ("prompts", "steps", "prefixes", "trainer_state", "log_metric")
"""Keyword arguments of every call; the others are data columns."""


@dataclass(frozen=True, kw_only=True)
class StepCall(FunctionCall):
    """The steps that a function scores in one call."""

    trees: tuple[ProcessTree, ...]

    def make_arguments(self, progress: Progress) -> dict[str, Any]:
        """Every keyword argument, by name, one entry a step. A column that a prompt lacks is None there."""
        owners = self._list_steps()
        return {
            **self.collect_columns([group.prompt for group, _ in owners], own=STEP_ARGUMENTS),
            "steps": [find_step_text(group, step) for group, step in owners],
            "prefixes": [find_step_prefix(group, step) for group, step in owners],
            **self.describe_run(progress),
        }

    def read_rewards(self, answer: Any) -> list[Rewards]:
        """The function's answer, group by group; the outcome does not apply."""
        values = [math.nan if v is None else v for v in self._read_numbers(answer)]
        metrics = {name: sum(v) / len(v) for name, v in self.metrics.items()}
        metrics[f"rewards/{self.name}/errors"] = 0.0
        out, start = [], 0
        for group, tree in zip(self.groups, self.trees, strict=True):
            steps = torch.tensor(values[start : start + len(tree.steps)], dtype=torch.float32)
            out.append(self._make_rewards(group, steps, metrics))
            start += len(tree.steps)
        return out

    def fail(self) -> list[Rewards]:
        """The result of a failed call: no reward applies to its steps."""
        metrics = {f"rewards/{self.name}/errors": 1.0}
        pairs = zip(self.groups, self.trees, strict=True)
        return [self._make_rewards(g, torch.full((len(t.steps),), math.nan), metrics) for g, t in pairs]

    def _make_rewards(self, group: Group, steps: torch.Tensor, metrics: dict[str, float]) -> Rewards:
        none = torch.full((len(group),), math.nan)
        return Rewards(outcome=none, steps=steps, parts={self.name: none}, metrics=metrics)

    def _list_steps(self) -> Sequence[tuple[Group, Step]]:
        return [(g, step) for g, tree in zip(self.groups, self.trees, strict=True) for step in tree.steps]

    def _count(self) -> int:
        return sum(len(tree.steps) for tree in self.trees)

    def _name_completion(self, number: int) -> str:
        group, step = self._list_steps()[number]
        return f"step {find_step_text(group, step)[:80]!r} of prompt {group.prompt.uid!r}"

    each = "step"


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

    passed: ClassVar[tuple[str, ...]] = STEP_ARGUMENTS

    def score_batch(self, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
        if not groups:
            return []
        return self.answer_call(StepCall(name=self.name, groups=tuple(groups), trees=tuple(trees)))
