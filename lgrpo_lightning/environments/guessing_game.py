"""A game of several turns: guess a number, and hear whether it was too low or too high."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.errors import UserError

if TYPE_CHECKING:
    from lgrpo_lightning.types import Message


class GuessingGame(Environment):
    """The policy guesses a number; the environment says "+" (it is larger), "-" (smaller), or ends the game.

    Pays 1 for the number, less ``cost`` for every guess before it, and 0 where it was not found.

    Args:
        lowest, highest: Between which the number is drawn, both included.
        cost: Of a wrong guess, where the number is found in the end.
        column: Data column with the number; where a prompt has none it is drawn.

    Raises:
        ValueError: There is no number to draw.

    >>> game = GuessingGame()
    >>> game.reset({"number": 3})
    >>> game.respond([{"role": "assistant", "content": "5"}])
    [{'role': 'user', 'content': '-'}]
    >>> game.respond([{"role": "assistant", "content": "3"}]), game.reward()
    (None, 0.9)
    """

    def __init__(self, lowest: int = 1, highest: int = 9, cost: float = 0.1, column: str = "number") -> None:
        if lowest > highest:
            raise UserError(f"GuessingGame: lowest is {lowest} and highest {highest}; there is no number between.")
        self.lowest, self.highest, self.cost, self.column = lowest, highest, cost, column
        self.number, self.guesses, self.found = lowest, 0, False

    def reset(self, columns: Mapping[str, Any]) -> str | None:
        """Choose the number."""
        number = Random(self.seed).randint(self.lowest, self.highest)
        self.number = int(columns.get(self.column, number))
        self.guesses, self.found = 0, False
        return None

    def respond(self, turns: Sequence[Message]) -> Sequence[Message] | None:
        """Larger, smaller, or the end."""
        guess = re.search(r"-?\d+", str(turns[-1]["content"]))
        if guess is None:
            return [{"role": "user", "content": "?"}]
        self.guesses += 1
        self.found = int(guess[0]) == self.number
        if self.found:
            return None
        return [{"role": "user", "content": "+" if int(guess[0]) < self.number else "-"}]

    def reward(self) -> float:
        """1 for the number, less what wrong guesses cost."""
        return max(0.0, 1.0 - self.cost * (self.guesses - 1)) if self.found else 0.0
