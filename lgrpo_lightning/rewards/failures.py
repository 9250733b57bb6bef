"""Counts failed calls of a reward function and stops the run after too many."""

from __future__ import annotations

import warnings
from typing import Literal

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rewards.checks import RewardError

OnError = Literal["stop", "none"]


class Failures:
    """Decides about each failed call.

    Args:
        on_error: "stop" raises the error, "none" lets the run go on without these rewards.
        most_in_a_row: With "none", so many failed calls one after the other raise it all the same.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, on_error: OnError, most_in_a_row: int) -> None:
        if on_error not in ("stop", "none"):
            raise UserError(f"RewardFunction: on_error is {on_error!r}; possible are 'stop' and 'none'.")
        if most_in_a_row < 1:
            raise UserError(f"RewardFunction: max_errors_in_a_row is {most_in_a_row}; it must be at least 1.")
        self.on_error = on_error
        self.most_in_a_row = most_in_a_row
        self.in_a_row = 0
        self._warned = False

    def success(self) -> None:
        """Reset the count of failed calls in a row."""
        self.in_a_row = 0

    def failure(self, name: str, error: RewardError) -> None:
        """Count a failed call, and warn the first time.

        Raises:
            RewardError: The run is to stop.
        """
        self.in_a_row += 1
        if self.on_error == "stop":
            raise error
        if self.in_a_row >= self.most_in_a_row:
            raise RewardError(
                f"Reward function {name!r} failed {self.in_a_row} times in a row (max_errors_in_a_row). The last "
                f"time: {error}"
            ) from error
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{error}\nIts completions count as 'does not apply' (on_error: none), which adds nothing to their "
                f"reward. rewards/{name}/errors shows how often that happens; it is not warned of again.",
                RuntimeWarning,
                stacklevel=2,
            )
