"""One call of a TRL-style reward function: what it is passed and what becomes of its answer."""

from __future__ import annotations

import math
import os
import traceback
from asyncio import CancelledError
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lgrpo_lightning.distributed.interruption import AbandonedError
from lgrpo_lightning.errors import refuse_text
from lgrpo_lightning.rewards.checks import RewardError
from lgrpo_lightning.types import Completion, Group, Progress, Prompt, Rewards, copy_value

PASSED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""Keyword arguments of every call; the others are data columns."""
LARGEST = torch.finfo(torch.float32).max
NEVER_PASSED = ("prompt", "completion", "completion_ids")
"""Data columns that are not passed, as in TRL: the lists of a call have nearly their names."""


@dataclass(frozen=True, kw_only=True)
class FunctionCall:
    """The groups that a function scores in one call, and what it logs meanwhile."""

    name: str
    groups: tuple[Group, ...]
    each = "completion"
    extras: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    metrics: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def make_arguments(self, progress: Progress) -> dict[str, Any]:
        """Every keyword argument, by name. A column that a prompt lacks is None there."""
        pairs = [(g.prompt, r) for g in self.groups for r in g.completions]
        return {
            **self.collect_columns([prompt for prompt, _ in pairs], own=PASSED),
            "completions": [_convert_completion(prompt, completion) for prompt, completion in pairs],
            "completion_ids": [list(completion.token_ids) for _, completion in pairs],
            **self.describe_run(progress),
            "log_extra": self.log_extra,
        }

    def collect_columns(self, prompts: Sequence[Prompt], *, own: Sequence[str]) -> dict[str, list[Any]]:
        """The prompts and their data columns, one entry for each of ``prompts``.

        Args:
            own: Names of the other arguments; a column called like one is not passed.
        """
        names = dict.fromkeys(c for g in self.groups for c in g.prompt.columns)
        return {
            **{
                column: [copy_value(prompt.columns.get(column)) for prompt in prompts]
                for column in names
                if column not in {*own, *NEVER_PASSED}
            },
            "prompts": [_convert_prompt(prompt) for prompt in prompts],
        }

    def describe_run(self, progress: Progress) -> dict[str, Any]:
        """Position in the run, and the function that logs a number."""
        from transformers import TrainerState

        return {
            "trainer_state": TrainerState(
                global_step=progress.global_step, max_steps=progress.max_steps, epoch=progress.epoch
            ),
            "log_metric": lambda name, value: self.metrics[name].append(float(value)),
        }

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
                f"It was called with {self._count()} {self.each}s; the first prompts: {prompts}"
            ) from error

    def read_rewards(self, answer: Any) -> list[Rewards]:
        """The function's answer, group by group. Metrics are of the whole call and stand in every group."""
        values = self._read_numbers(answer)
        short = {column: len(v) for column, v in self.extras.items() if len(v) != self._count()}
        if short:
            raise RewardError(
                f"Reward function {self.name!r} called log_extra with a number of values that is not "
                f"{self._count()}, one per completion: {short}."
            )
        metrics = {name: sum(v) / len(v) for name, v in self.metrics.items()}
        metrics[f"rewards/{self.name}/nan"] = float(sum(v is not None and math.isnan(v) for v in values))
        metrics[f"rewards/{self.name}/errors"] = 0.0
        out, start = [], 0
        for group in self.groups:
            end = start + len(group)
            outcome = torch.tensor([math.nan if v is None else v for v in values[start:end]], dtype=torch.float32)
            extras = {column: v[start:end] for column, v in self.extras.items()}
            out.append(Rewards(outcome=outcome, parts={self.name: outcome}, metrics=metrics, extras=extras))
            start = end
        return out

    def fail(self) -> list[Rewards]:
        """The result of a failed call: no reward applies to its completions, and its logs are dropped."""
        metrics = {f"rewards/{self.name}/nan": 0.0, f"rewards/{self.name}/errors": 1.0}
        outcomes = [torch.full((len(group),), math.nan) for group in self.groups]
        return [Rewards(outcome=o, parts={self.name: o}, metrics=metrics) for o in outcomes]

    def _read_numbers(self, answer: Any) -> list[float | None]:
        """The answer as ``N`` numbers or None."""
        expected = f"it must return a list of {self._count()} numbers (or None), one per {self.each}"
        try:
            if isinstance(answer, str | bytes | Mapping | set):  # its characters or keys are no rewards
                raise TypeError
            values = list(answer)
        except TypeError as error:
            raise RewardError(
                f"Reward function {self.name!r} returned a {type(answer).__name__}; {expected}."
            ) from error
        if len(values) != self._count():
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
                    f"Reward function {self.name!r} returned {what} for {self._name_completion(i)}; {expected}."
                ) from error
        return values

    def _count(self) -> int:
        return sum(len(group) for group in self.groups)

    def _name_completion(self, number: int) -> str:
        owners = [(g.prompt.uid, i) for g in self.groups for i in range(len(g))]
        return "completion {1} of prompt {0!r}".format(*owners[number])


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
    frames = traceback.extract_tb(error.__traceback__)
    ended = isinstance(error, TimeoutError) and "(timeout)" in str(error)  # where the waiting ended
    if ended or len(frames) < 3:  # guarded, the call: the function itself was not reached
        return ""
    last = frames[-1]
    return f" ({os.path.basename(last.filename)}, line {last.lineno}; LGRPO_TRACEBACK=1 shows the way there)"
