"""Rewards a mathematical answer that equals a data column."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch

from lgrpo_lightning.contracts import RewardModel
from lgrpo_lightning.errors import UserError, require
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards.checks import RewardError
from lgrpo_lightning.rewards.opening import complete_tags
from lgrpo_lightning.types import Group, Prompt, Rewards
from lgrpo_math.gold import gold_texts
from lgrpo_math.pool import Pool

Extract = Literal["any", "latex", "boxed"]
METRICS = {"wrong": "wrong", "no_answer": "no_answer", "timeout": "timeouts", "crash": "crashes"}
"""Verdict → the metric that counts it."""


class MathAnswer(RewardModel):
    """Compares the mathematical answer in a completion with a data column, through math-verify.

    Fractions, decimals, percentages, sets, intervals, matrices, equations, units and several answers are
    compared by what they mean: ``0.5`` = ``\\frac{1}{2}``. A column that holds a list accepts any of its
    answers. Checking happens in worker processes: an answer that runs out of time or memory ends its worker,
    which is replaced, and nothing else.

    Logged are the shares of completions ``rewards/<name>/wrong``, ``/no_answer`` (nothing found that
    math-verify can read), ``/timeouts`` and ``/crashes`` (out of memory, or the worker was killed); the rest
    is right. The verdict on each completion is stored with the rollouts as ``<name>/verdict``.

    Args:
        column: Data column with the right answer.
        extract: Where the answer of a completion stands: "any" (math-verify's own search, LaTeX before plain
            numbers), "latex" (in ``$...$``, ``\\boxed{...}`` and the like) or "boxed" (the last complete
            ``\\boxed{...}`` alone).
        correct: Reward of a right answer.
        incorrect: Reward of a wrong answer.
        missing: Reward of a completion without an answer; null for the same as ``incorrect``, .nan for "does
            not apply".
        unchecked: Reward of an answer whose check ran out of time or memory; null for the same as
            ``incorrect``, .nan for "does not apply".
        strict: Whether the names of variables matter (``x + 1`` is not ``y + 1``), and sets differ from
            tuples.
        float_rounding: Number of decimal places to which decimal numbers are compared.
        timeout: Seconds that the check of one answer may take.
        workers: Most worker processes at a time, on each rank; they start when they are first needed.
        memory_mb: Most memory (address space) of a worker in MB, where the system can bound it (Linux).

    Raises:
        ValueError: An argument is out of range.

    >>> from lgrpo_lightning.testing import toy_group, toy_tree
    >>> group = toy_group([r"so \\boxed{\\frac{1}{2}}", "50%", "2", "I pass"], columns={"answer": "0.5"})
    >>> reward = MathAnswer(workers=1)
    >>> reward.score_batch([group], [toy_tree(group)])[0].outcome.tolist()
    [1.0, 1.0, 0.0, 0.0]
    >>> reward.teardown()
    """

    def __init__(
        self,
        column: str = "answer",
        extract: Extract = "any",
        correct: float = 1.0,
        incorrect: float = 0.0,
        missing: float | None = None,
        unchecked: float | None = None,
        strict: bool = True,
        float_rounding: int = 6,
        timeout: float = 5.0,
        workers: int = 4,
        memory_mb: int = 1024,
    ) -> None:
        pays = {
            "correct": correct,
            "incorrect": incorrect,
            "missing": incorrect if missing is None else missing,
            "unchecked": incorrect if unchecked is None else unchecked,
        }
        require(
            "MathAnswer: ",
            locals(),
            (extract in get_args(Extract), "extract", f"one of {', '.join(get_args(Extract))}"),
            (float_rounding >= 0, "float_rounding", "at least 0"),
            (0 < timeout < math.inf, "timeout", "a number of seconds above 0"),
            (workers >= 1, "workers", "at least 1"),
            (memory_mb >= 256, "memory_mb", "at least 256, of which sympy takes 60"),
            *((not math.isinf(value), name, "finite, or .nan for no reward at all") for name, value in pays.items()),
        )
        self.column = column
        self.columns = (column,)  # type: ignore[misc]
        self.rewards = {"correct": correct, "wrong": incorrect, "no_answer": pays["missing"]}
        self.rewards |= dict.fromkeys(("timeout", "crash"), pays["unchecked"])
        self.timeout, self.workers, self.memory_mb = timeout, workers, memory_mb
        self._options = {"extract": extract, "strict": strict, "float_rounding": float_rounding}
        self._readable: set[tuple[str, ...]] = set()
        self._pool: Pool | None = None

    def check_row(self, row: Mapping[str, Any]) -> None:
        self._gold(row)

    def score_batch(self, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
        """Check all completions of all groups at once.

        Raises:
            RewardError: A prompt has no answer in the column, or one that math-verify cannot read.
        """
        golds = [self._gold_of(group.prompt) for group in groups]
        self._refuse_unreadable(groups, golds)
        requests = [
            {"gold": gold, "text": text, **self._options}
            for group, gold in zip(groups, golds, strict=True)
            for text in complete_tags(group)
        ]
        verdicts = iter(self._running().verdicts(requests, self.timeout))
        return [self._rewards([next(verdicts) for _ in group.completions]) for group in groups]

    def teardown(self) -> None:
        """End the worker processes; a later ``score_batch`` starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or this object in another process, starts workers of its own."""
        return {**self.__dict__, "_pool": None}

    def _running(self) -> Pool:
        if self._pool is None or self._pool.owner != os.getpid():
            self._pool = Pool(self.workers, self.memory_mb)
            weakref.finalize(self, self._pool.close)  # also when the interpreter exits
        return self._pool

    def _gold(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """What math-verify reads as the right answer of a row."""
        try:
            gold = gold_texts(row.get(self.column))
        except ValueError as error:
            raise UserError(f"{self.name}: column {self.column!r} is {error}.") from error
        if not gold:
            raise UserError(
                f"{self.name}: there is no answer in column {self.column!r}; the columns are {sorted(row)}. Set "
                "column= to the one with the answer, or fill it in."
            )
        return gold

    def _gold_of(self, prompt: Prompt) -> tuple[str, ...]:
        try:
            return self._gold(prompt.columns)
        except UserError as error:
            raise RewardError(f"Prompt {prompt.uid!r}: {error}") from error

    def _refuse_unreadable(self, groups: Sequence[Group], golds: Sequence[tuple[str, ...]]) -> None:
        """Read every right answer once before the first completion is measured by it."""
        unread = {g: group for g, group in zip(golds, groups, strict=True) if g not in self._readable}
        requests = [{"gold": gold, "text": None, **self._options} for gold in unread]
        verdicts = self._running().verdicts(requests, self.timeout)
        for (gold, group), verdict in zip(unread.items(), verdicts, strict=True):
            if verdict != "readable":
                raise RewardError(self._complaint(group.prompt, gold, verdict))
            self._readable.add(gold)

    def _complaint(self, prompt: Prompt, gold: tuple[str, ...], verdict: str) -> str:
        value = repr(prompt.columns[self.column])
        shown = value if len(value) <= 200 else f"{value[:200]}… ({len(value)} characters)"
        why = {
            "timeout": f"math-verify did not read it within {self.timeout:g} seconds (timeout=)",
            "crash": f"reading it took more than {self.memory_mb} MB (memory_mb=), or its worker was killed",
        }.get(verdict, f"math-verify finds no answer in {[text[:200] for text in gold]}, as which it was read")
        return (
            f"{self.name}: column {self.column!r} of prompt {prompt.uid!r} is {shown}, which is no right "
            f"answer to compare with: {why}. Write it in LaTeX, such as $\\frac{{1}}{{2}}$, or use "
            "ExactMatch for answers that are not mathematics."
        )

    def _rewards(self, verdicts: list[str]) -> Rewards:
        outcome = torch.tensor([self.rewards[v] for v in verdicts], dtype=torch.float32)
        shares = {
            f"rewards/{self.name}/{metric}": verdicts.count(verdict) / max(len(verdicts), 1)
            for verdict, metric in METRICS.items()
        }
        return Rewards(
            outcome=outcome, parts={self.name: outcome}, metrics=shares, extras={f"{self.name}/verdict": verdicts}
        )
