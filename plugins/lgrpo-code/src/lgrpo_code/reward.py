"""A reward for programs that pass tests."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lgrpo_code.runner import Limits, Program, Result, SandboxError, check, run_all
from lgrpo_lightning import Group, ProcessTree, RewardModel, Rewards
from lgrpo_lightning.errors import UserError, require
from lgrpo_lightning.rewards.opening import compile_extract, complete_tags, find_last

if TYPE_CHECKING:
    from lgrpo_lightning.contracts import WeightSource

BLOCK = r"```(?:python|py)?[ \t]*\n(.*?)```"
"""A fenced block of Python; the last one counts."""


class CodeTests(RewardModel):
    """The share of its tests that the program in a completion passes.

    The column holds what a prompt's programs are tested with: a text of Python with ``assert`` (one test, run after the
    program), a list of such texts, or a list of ``{input, output}``: what the program reads and what it has to write,
    compared without white space at the ends of lines.

    Programs are written by the model that is trained, and are run: each in namespaces of its own, without network, with
    a root of its own in which the system's programs are read-only, as an unprivileged user, with limits. Where the
    machine refuses any of that, nothing is run: the run is refused before its first step. The README says what a
    program may do and may not, and what that does not protect against.

    Args:
        allow_execution: Must be true: programs that a model wrote are run on this machine.
        column: Data column with the tests.
        extract: Regular expression with a group that finds the program; its last match counts.
        partial: Whether passing some tests gives their share; else only passing all gives 1.
        missing: Reward of a completion without a program.
        seconds: Time of one test, from the start of the program.
        memory_mb: Address space of each process of a test.
        output_kb: What a test may write out; more ends it.
        disk_mb: What a test may write to files.
        processes: Processes and threads of a test at a time, whatever other tests start.
        workers: Tests at a time; 0: as many as the machine has processors.

    Raises:
        ValueError: Execution is not allowed, or an argument is out of range.
    """

    def __init__(
        self,
        allow_execution: bool = False,
        column: str = "tests",
        extract: str = BLOCK,
        partial: bool = True,
        missing: float = 0.0,
        seconds: float = 10.0,
        memory_mb: int = 512,
        output_kb: int = 64,
        disk_mb: int = 16,
        processes: int = 8,
        workers: int = 0,
    ) -> None:
        if not allow_execution:
            raise UserError(
                "CodeTests runs programs that the model has written, on this machine. Read in its README what it does "
                "and does not protect against, and set allow_execution: true."
            )
        limits = Limits(seconds=seconds, memory_mb=memory_mb, output_kb=output_kb, disk_mb=disk_mb, processes=processes)
        require(
            "CodeTests: ",
            locals(),
            *((value > 0, name, "above 0") for name, value in vars(limits).items()),
            (workers >= 0, "workers", "at least 0"),
        )
        self._pattern = compile_extract("CodeTests", extract, "is one with a group around the program")
        self.allow_execution, self.column, self.extract = allow_execution, column, extract
        self.partial, self.missing, self.workers = partial, missing, workers
        self.limits = limits
        self.columns = (column,)  # type: ignore[misc]

    def setup(self, source: WeightSource) -> None:
        """Refuse a machine on which programs cannot be run apart."""
        try:
            check()
        except SandboxError as error:
            raise UserError(str(error)) from error

    def check_row(self, row: Mapping[str, Any]) -> None:
        self._tests(row)

    def score_batch(self, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
        """Run the tests of all completions side by side."""
        jobs = [
            (g, m, test, code)
            for g, group in enumerate(groups)
            for m, text in enumerate(complete_tags(group))
            if (code := find_last(self._pattern, text)) is not None
            for test in self._tests(group.prompt.columns)
        ]
        nonce = secrets.token_hex(16)
        programs = [_program(code, test, nonce) for _, _, test, code in jobs]
        results = run_all(programs, self.limits, workers=self.workers or os.cpu_count() or 1)
        passed: dict[tuple[int, int], list[bool]] = {}
        ended = 0
        for (g, m, test, _), result in zip(jobs, results, strict=True):
            passed.setdefault((g, m), []).append(_passed(result, test, nonce))
            ended += result.status is None
        out = []
        for g, group in enumerate(groups):
            outcome = torch.tensor([self._paid(passed.get((g, m))) for m in range(len(group))])
            without = sum((g, m) not in passed for m in range(len(group))) / max(len(group), 1)
            metrics = {
                f"rewards/{self.name}/no_answer": without,
                f"rewards/{self.name}/ended": ended / max(len(jobs), 1),
            }
            out.append(Rewards(outcome=outcome, parts={self.name: outcome}, metrics=metrics))
        return out

    def _paid(self, passed: list[bool] | None) -> float:
        if passed is None:
            return self.missing
        return sum(passed) / len(passed) if self.partial else float(all(passed))

    def _tests(self, row: Mapping[str, Any]) -> list[Any]:
        """The tests of a row; errors say what the column holds, and what it may hold."""
        found = row.get(self.column)
        tests = [found] if isinstance(found, str) else found
        good = isinstance(tests, list | tuple) and len(tests) > 0 and all(map(_is_test, tests))
        if not good:
            raise UserError(
                f"CodeTests: column {self.column!r} is {found!r}; it must be a text of Python with assert, a list of "
                "such texts, or a list of {input, output}, both texts."
            )
        return list(tests)


def _is_test(test: Any) -> bool:
    """Whether it is Python, or an input with its output."""
    if isinstance(test, str):
        return bool(test.strip())
    return isinstance(test, Mapping) and all(isinstance(test.get(key), str) for key in ("input", "output"))


def _program(code: str, test: Any, nonce: str) -> Program:
    if isinstance(test, str):
        return Program(code=f"{code}\n\n{test}\n\nprint({nonce!r})\n")
    return Program(code=code, stdin=test["input"])


def _passed(result: Result, test: Any, nonce: str) -> bool:
    """Whether the program did what the test asks: reached the end of its assertions, or wrote what it had to."""
    if result.status != 0:
        return False
    if isinstance(test, str):
        return result.output.rstrip().endswith(nonce)
    return _lines(result.output) == _lines(test["output"])


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
