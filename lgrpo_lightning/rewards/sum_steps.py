"""The step rewards of ``ArithmeticTasks``: a line adds up, and begins with what the one before came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def right_sum(steps: Sequence[str], prefixes: Sequence[str], **columns: Any) -> list[float | None]:
    """1 for a line such as ``12+7=19`` that is right, 0 for another; None for an empty one. For ``StepRewardFunction``.

    It does not look at the prompt: a line that adds up and follows from the one before is right, whatever it adds.

    >>> right_sum(["12+7=19\\n", "19+2=20\\n", "18+2=20\\n"], ["", "12+7=19\\n", "12+7=19\\n"])
    [1.0, 0.0, 0.0]
    """
    return [
        _check_sum(step.strip(), prefix) if step.strip() else None for step, prefix in zip(steps, prefixes, strict=True)
    ]


def _check_sum(step: str, prefix: str) -> float:
    left, _, total = step.partition("=")
    terms = left.split("+")
    if not all(number.isdecimal() and number.isascii() for number in (*terms, total)):
        return 0.0
    before = prefix.strip().rpartition("=")[2]
    follows = not before or before == terms[0]
    return float(follows and sum(map(int, terms)) == int(total))
