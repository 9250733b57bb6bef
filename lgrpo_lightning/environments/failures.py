"""Environments that fail again and again: when that is too often."""

from __future__ import annotations

from dataclasses import dataclass, field

from lgrpo_lightning.errors import UserError


@dataclass(kw_only=True)
class Failures:
    """Counts rollouts in which every answer of an environment, or every reward, failed.

    Whole rollouts are counted, not calls: calls run side by side, and an order of theirs would differ from run to run.

    Attributes:
        most: So many rollouts in a row end the run.
        in_a_row: Rollouts.
    """

    most: int
    in_a_row: int = 0
    _calls: dict[str, list[BaseException | None]] = field(default_factory=dict)

    def begin(self) -> None:
        """A rollout begins."""
        self._calls = {"respond": [], "reward": []}

    def note(self, method: str, error: BaseException | None) -> None:
        """A call worked, or failed."""
        self._calls[method].append(error)

    def check(self, who: str) -> None:
        """The rollout is over.

        Raises:
            RuntimeError: It is one too many.
        """
        failed = [(m, errors[-1]) for m, errors in self._calls.items() if errors and None not in errors]
        self.in_a_row = self.in_a_row + 1 if failed else 0
        if self.in_a_row >= self.most:
            method, error = failed[0]
            raise UserError(
                f"EnvironmentSampler: in {self.in_a_row} rollouts in a row (max_errors_in_a_row) every call of "
                f"{who}.{method} failed. The last time: {type(error).__name__}: {error}"
            ) from error
