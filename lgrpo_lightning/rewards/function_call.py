"""One call of a TRL-style reward function: what it is passed and what becomes of its answer."""

from __future__ import annotations

import math
import os
import traceback
from asyncio import CancelledError
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lgrpo_lightning.distributed.interruption import AbandonedError
from lgrpo_lightning.errors import refuse_text
from lgrpo_lightning.images import OpenedImages
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards.checks import RewardError
from lgrpo_lightning.types import Completion, Group, Progress, Prompt, Rewards, copy_value

PASSED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""Keyword arguments of every call; the others are data columns."""
IMAGES = ("image", "images")
LARGEST = torch.finfo(torch.float32).max
NEVER_PASSED = ("prompt", "completion", "completion_ids")
"""Data columns that are not passed, as in TRL: the lists of a call have nearly their names."""


@dataclass(frozen=True, kw_only=True)
class FunctionCall:
    """The completions that a function scores in one call, and what it logs meanwhile."""

    passed: ClassVar[tuple[str, ...]] = PASSED  # keyword arguments of every call; the others are data columns
    each: ClassVar[str] = "completion"

    name: str
    groups: tuple[Group, ...]
    trees: tuple[ProcessTree, ...]
    extras: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    metrics: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @cached_property
    def sizes(self) -> list[int]:
        """How many values the function returns for each group."""
        return [len(group) for group in self.groups]

    def make_arguments(self, progress: Progress) -> dict[str, Any]:
        """Every keyword argument, by name. A column that a prompt lacks is None there."""
        from transformers import TrainerState

        prompts = [group.prompt for group, size in zip(self.groups, self.sizes, strict=True) for _ in range(size)]
        columns = dict.fromkeys(column for group in self.groups for column in group.prompt.columns)
        return {
            **{
                column: [copy_value(prompt.columns.get(column)) for prompt in prompts]
                for column in columns
                if column not in {*self.passed, *NEVER_PASSED}
            },
            **(pass_images(prompts) if {*IMAGES} & {*columns} or any(prompt.images for prompt in prompts) else {}),
            "prompts": [_convert_prompt(prompt) for prompt in prompts],
            "trainer_state": TrainerState(
                global_step=progress.global_step, max_steps=progress.max_steps, epoch=progress.epoch
            ),
            "log_metric": lambda name, value: self.metrics[name].append(float(value)),
            **self.describe_scored(),
        }

    def describe_scored(self) -> dict[str, Any]:
        """The arguments that say what is scored."""
        pairs = [(group.prompt, completion) for group in self.groups for completion in group.completions]
        return {
            "completions": [_convert_completion(prompt, completion) for prompt, completion in pairs],
            "completion_ids": [list(completion.token_ids) for _, completion in pairs],
            "log_extra": self.log_extra,
        }

    def make_rewards(self, number: int, values: Tensor, metrics: dict[str, float]) -> Rewards:
        """The rewards of group ``number`` from what the function returned for it."""
        start = sum(self.sizes[:number])
        extras = {column: logged[start : start + len(values)] for column, logged in self.extras.items()}
        return Rewards(outcome=values, parts={self.name: values}, metrics=metrics, extras=extras)

    def log_extra(self, column: str, values: Any) -> None:
        """Store a column with the rollouts, one value per completion."""
        refuse_text(f"log_extra({column!r}, …)", values)
        self.extras[column].extend(values)

    def run_guarded(self, call: Callable[[], Any]) -> Any:
        """The result of ``call``; an exception in it is raised with the function's name and its first prompts."""
        try:
            return call()
        except AbandonedError:
            raise
        except (Exception, CancelledError) as error:
            prompts = "; ".join(f"{g.prompt.uid} {repr(_convert_prompt(g.prompt))[:200]}" for g in self.groups[:2])
            raise RewardError(
                f"Reward function {self.name!r} failed with {type(error).__name__}: {error}{_describe_line(error)}\n"
                f"It was called with {sum(self.sizes)} {self.each}s; the first prompts: {prompts}"
            ) from error

    def read_rewards(self, answer: Any) -> list[Rewards]:
        """The function's answer, group by group. Metrics are of the whole call and stand in every group."""
        values = self._read_numbers(answer)
        count = len(values)
        if short := {column: len(v) for column, v in self.extras.items() if len(v) != count}:
            raise RewardError(
                f"Reward function {self.name!r} called log_extra with a number of values that is not {count}, one per "
                f"completion: {short}."
            )
        metrics = {name: sum(v) / len(v) for name, v in self.metrics.items()}
        nan = float(sum(v is not None and math.isnan(v) for v in values))
        return self._divide(values, metrics | self._count_failures(nan, 0.0))

    def fail(self) -> list[Rewards]:
        """The result of a failed call: no reward applies, and its logs are dropped."""
        self.extras.clear()
        return self._divide([None] * sum(self.sizes), self._count_failures(0.0, 1.0))

    def _divide(self, values: Sequence[float | None], metrics: dict[str, float]) -> list[Rewards]:
        numbers = torch.tensor([math.nan if v is None else v for v in values], dtype=torch.float32)
        parts = torch.split(numbers, self.sizes)
        return [self.make_rewards(number, part, metrics) for number, part in enumerate(parts)]

    def _count_failures(self, nan: float, errors: float) -> dict[str, float]:
        return {f"rewards/{self.name}/nan": nan, f"rewards/{self.name}/errors": errors}

    def _read_numbers(self, answer: Any) -> list[float | None]:
        """The answer as ``N`` numbers or None."""
        count = sum(self.sizes)
        expected = f"it must return a list of {count} numbers (or None), one per {self.each}"
        try:
            if isinstance(answer, str | bytes | Mapping | set):  # its characters or keys are no rewards
                raise TypeError
            values = list(answer)
        except TypeError as error:
            raise RewardError(
                f"Reward function {self.name!r} returned a {type(answer).__name__}; {expected}."
            ) from error
        if len(values) != count:
            raise RewardError(f"Reward function {self.name!r} returned {len(values)} values; {expected}.")
        for i, value in enumerate(values):
            try:
                values[i] = number = None if value is None else float(value + 0.0)  # the sum refuses strings
                if number is not None and abs(number) > LARGEST:
                    raise OverflowError(number)
            except Exception as error:  # of whatever an object of theirs raises
                large = isinstance(error, OverflowError)
                what = (
                    f"a number beyond ±{LARGEST:.2g}, or infinity,"
                    if large
                    else f"{value!r} (a {type(value).__name__})"
                )
                raise RewardError(
                    f"Reward function {self.name!r} returned {what} for {self.name_scored(i)}; {expected}."
                ) from error
        return values

    def name_scored(self, number: int) -> str:
        """What value ``number`` of the call is of, for a message."""
        owners = [(g.prompt.uid, i) for g in self.groups for i in range(len(g))]
        return "completion {1} of prompt {0!r}".format(*owners[number])


def pass_images(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The images of each prompt, and the first of them, under TRL's names. They are opened when they are asked for."""
    return {
        "images": [OpenedImages(prompt.images) if prompt.images else [] for prompt in prompts],
        "image": OpenedImages([next(iter(prompt.images), None) for prompt in prompts]),
    }


def _convert_prompt(prompt: Prompt) -> Any:
    """A prompt as TRL passes it: its text, or for a chat its messages."""
    return prompt.text if prompt.messages is None else [copy_value(dict(m)) for m in prompt.messages]


def _convert_completion(prompt: Prompt, completion: Completion) -> Any:
    """A completion as TRL passes it: its text, or for a chat the messages of its turns, or the assistant's one."""
    if prompt.messages is not None and completion.turns:
        return [copy_value(dict(message)) for turn in completion.turns for message in turn.messages]
    return completion.text if prompt.messages is None else [{"role": "assistant", "content": completion.text}]


def _describe_line(error: BaseException) -> str:
    """File and line in which ``error`` was raised, where that is inside the function."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    ended = isinstance(error, TimeoutError) and "(timeout)" in str(error)  # where the waiting ended
    # in this folder it is the call that failed, with arguments that the function does not take
    if ended or os.path.dirname(last.filename) == os.path.dirname(__file__):
        return ""
    return f" ({os.path.basename(last.filename)}, line {last.lineno}; LGRPO_TRACEBACK=1 shows the way there)"
