"""One call of a step-reward function: the steps of all groups, each once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lgrpo_lightning.process_tree import ProcessTree, Step
from lgrpo_lightning.rewards.function_call import FunctionCall
from lgrpo_lightning.types import Group, Progress, Rewards

STEP_ARGUMENTS = ("prompts", "steps", "prefixes", "trainer_state", "log_metric")
"""Keyword arguments of every call; the others are data columns."""


@dataclass(frozen=True, kw_only=True)
class StepCall(FunctionCall):
    """The steps that a function scores in one call.

    Attributes:
        trees: The groups' trees.
    """

    trees: tuple[ProcessTree, ...]

    def arguments(self, progress: Progress) -> dict[str, Any]:
        """Every keyword argument, by name, one entry a step. A column that a prompt lacks is None there."""
        owners = self._steps()
        return {
            **self.columns([group.prompt for group, _ in owners], own=STEP_ARGUMENTS),
            "steps": [step_text(group, step) for group, step in owners],
            "prefixes": [step_prefix(group, step) for group, step in owners],
            **self.told(progress),
        }

    def rewards(self, answer: Any) -> list[Rewards]:
        """The function's answer, group by group; the outcome does not apply."""
        values = [math.nan if v is None else v for v in self._numbers(answer)]
        metrics = {name: sum(v) / len(v) for name, v in self.metrics.items()}
        metrics[f"rewards/{self.name}/errors"] = 0.0
        out, start = [], 0
        for group, tree in zip(self.groups, self.trees, strict=True):
            steps = torch.tensor(values[start : start + len(tree.steps)], dtype=torch.float32)
            out.append(self._told(group, steps, metrics))
            start += len(tree.steps)
        return out

    def failed(self) -> list[Rewards]:
        """The result of a failed call: no reward applies to its steps."""
        metrics = {f"rewards/{self.name}/errors": 1.0}
        pairs = zip(self.groups, self.trees, strict=True)
        return [self._told(g, torch.full((len(t.steps),), math.nan), metrics) for g, t in pairs]

    def _told(self, group: Group, steps: torch.Tensor, metrics: dict[str, float]) -> Rewards:
        none = torch.full((len(group),), math.nan)
        return Rewards(outcome=none, steps=steps, parts={self.name: none}, metrics=metrics)

    def _steps(self) -> Sequence[tuple[Group, Step]]:
        return [(g, step) for g, tree in zip(self.groups, self.trees, strict=True) for step in tree.steps]

    def _count(self) -> int:
        return sum(len(tree.steps) for tree in self.trees)

    def _completion(self, number: int) -> str:
        group, step = self._steps()[number]
        return f"step {step_text(group, step)[:80]!r} of prompt {group.prompt.uid!r}"

    each = "step"


def step_text(group: Group, step: Step) -> str:
    """The text of a step, as its first member has it.

    >>> from lgrpo_lightning.testing import toy_group, toy_tree
    >>> group = toy_group(["ab", "ac"])
    >>> [step_text(group, step) for step in toy_tree(group).steps]
    ['a', 'b', 'c']
    """
    return group.completions[step.members[0]].text_between(*step.spans[0])


def step_prefix(group: Group, step: Step) -> str:
    """The completion's text before a step, as its first member has it."""
    return group.completions[step.members[0]].text_between(0, step.spans[0][0])
