"""Numbers to guess."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from lgrpo_lightning.contracts import PromptSource
from lgrpo_lightning.errors import UserError


class GuessingTask(PromptSource):
    """One prompt again and again, with the number that ``GuessingGame`` hides, drawn evenly.

    The rows have the columns ``prompt`` and ``number``.

    Args:
        count: Number of rows.
        lowest, highest: Between which numbers lie, both included.
        prompt: What every game begins with.
        seed: The same seed gives the same rows.

    Raises:
        ValueError: There is no number to draw.

    >>> GuessingTask(count=2).rows()
    [{'prompt': '+', 'number': 7}, {'prompt': '+', 'number': 7}]
    """

    def __init__(self, count: int = 1000, lowest: int = 1, highest: int = 9, prompt: str = "+", seed: int = 0) -> None:
        if lowest > highest or count < 1:
            raise UserError(
                f"GuessingTask: count is {count}, lowest {lowest} and highest {highest}; there is no number to draw."
            )
        self.count, self.lowest, self.highest, self.prompt, self.seed = count, lowest, highest, prompt, seed

    def rows(self) -> Sequence[dict[str, Any]]:
        draw = Random(self.seed)
        return [{"prompt": self.prompt, "number": draw.randint(self.lowest, self.highest)} for _ in range(self.count)]
