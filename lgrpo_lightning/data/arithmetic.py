"""Sums of several numbers, worked out step by step: a task to learn without any file."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from lgrpo_lightning.contracts import PromptSource
from lgrpo_lightning.errors import UserError, require

MISTAKES = (-10, -2, -1, 1, 2, 10)
"""What a mistaken step adds to the right partial sum: a slip in the ones or in the tens."""


class ArithmeticTasks(PromptSource):
    """Generated sums such as ``12+7+30+5=``, to be worked out one addition a line. Needs no file.

    A row has the columns ``prompt``, ``answer`` (the sum) and ``solution`` (the worked solution).
    The same arguments give the same rows on every machine.

    Args:
        count: Number of tasks.
        terms: Numbers in a sum. More terms are harder: the solution has ``terms - 1`` steps.
        max_term: Largest number in a sum; the smallest is 1. Larger is harder.
        min_terms: Fewest numbers in a sum, to mix short and long ones; None: always ``terms``.
        template: The prompt around the sum; ``{sum}`` stands for it.
        plus: What stands between the numbers.
        seed: Which tasks. Give training and validation different seeds.

    Raises:
        ValueError: An argument is out of range; the message says which and what is possible.

    >>> ArithmeticTasks(count=2, terms=3).rows()[0]
    {'prompt': '14+2+9=', 'answer': 25, 'solution': '14+2=16\\n16+9=25\\n'}
    """

    def __init__(
        self,
        count: int = 1000,
        terms: int = 4,
        max_term: int = 20,
        min_terms: int | None = None,
        template: str = "{sum}=",
        plus: str = "+",
        seed: int = 0,
    ) -> None:
        least = terms if min_terms is None else min_terms
        require(
            "ArithmeticTasks: ",
            locals(),
            (count >= 1, "count", "at least 1"),
            (terms >= 2, "terms", "at least 2"),
            (max_term >= 1, "max_term", "at least 1"),
            ("{sum}" in template, "template", "a text with {sum} in it"),
            (2 <= least <= terms, "min_terms", f"between 2 and terms ({terms}), or null"),
        )
        self.template, self.plus = template, plus
        self.count, self.min_terms, self.terms, self.max_term, self.seed = count, least, terms, max_term, seed

    def rows(self) -> Sequence[dict[str, Any]]:
        sums = draw_numbers(random.Random(self.seed), self.min_terms, self.terms, self.max_term)
        return [make_row(next(sums), template=self.template, plus=self.plus) for _ in range(self.count)]


def draw_numbers(rng: random.Random, min_terms: int, terms: int, max_term: int) -> Iterator[list[int]]:
    """Endless lists of ``min_terms`` to ``terms`` numbers from 1 to ``max_term``."""
    while True:
        yield [rng.randint(1, max_term) for _ in range(rng.randint(min_terms, terms))]


def make_row(terms: Sequence[int], *, template: str = "{sum}=", plus: str = "+") -> dict[str, Any]:
    """The data row of one sum.

    >>> make_row([12, 7, 30])["prompt"]
    '12+7+30='
    """
    prompt = template.replace("{sum}", plus.join(map(str, terms)))
    return {"prompt": prompt, "answer": sum(terms), "solution": solve_sum(terms)}


def solve_sum(terms: Sequence[int], *, mistake_rate: float = 0.0, rng: random.Random | None = None) -> str:
    """The sum worked out, one addition a line; a mistaken line carries its wrong partial sum on.

    Args:
        terms: The numbers to add.
        mistake_rate: Chance of each line to be wrong, from 0 to 1.
        rng: Draws the mistakes; needed where ``mistake_rate`` is above 0.

    >>> solve_sum([12, 7, 30, 5])
    '12+7=19\\n19+30=49\\n49+5=54\\n'
    """
    if not 0 <= mistake_rate <= 1 or (mistake_rate > 0 and rng is None):
        raise UserError(f"mistake_rate is {mistake_rate}; it must be 0 to 1, and above 0 it needs an rng.")
    total, lines = terms[0], []
    for term in terms[1:]:
        value = total + term
        if rng is not None and rng.random() < mistake_rate:
            value += rng.choice([m for m in MISTAKES if value + m > 0])
        lines.append(f"{total}+{term}={value}\n")
        total = value
    return "".join(lines)
