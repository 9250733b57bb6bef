"""The prompts of one set, checked against what the rewards of the run need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]

from lgrpo_lightning.contracts import PromptSource
from lgrpo_lightning.data.encoding import PromptEncoder
from lgrpo_lightning.data.images import COLUMNS, holds_images
from lgrpo_lightning.data.sources import check_row
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Prompt


class SetEncoder:
    """Makes prompts of the rows of one set."""

    def __init__(self, name: str, source: PromptSource, encoder: PromptEncoder, module: Any) -> None:
        self.name, self.encoder = name, encoder
        self.origin = str(getattr(source, "path", type(source).__name__))
        self.rewards = getattr(module, "reward_model", None)

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> list[Prompt]:
        """The prompts of all rows; says how many were left out for their length."""
        for number, row in enumerate(rows):
            self._check_columns(row, f"{self.origin}, row {number} (from 0)")
        prompts = self.encoder.encode(rows, name=self.name, origin=self.origin)
        if dropped := len(rows) - len(prompts):
            rank_zero_warn(
                f"{self.origin}: {dropped} of {len(rows)} prompts left out: over {self.encoder.max_length} tokens."
            )
        return prompts

    def encode_row(self, row: Mapping[str, Any], number: int) -> Prompt | None:
        """The prompt of row ``number`` of a stream; None where it is left out for its length."""
        check_row(row, number, self.origin)
        self._check_columns(row, f"{self.origin}, row {number} (from 0)")
        return self.encoder.encode_row(row, number, name=self.name, origin=self.origin)

    def _check_columns(self, row: Mapping[str, Any], where: str) -> None:
        """Refuse a row without a column that a reward reads, or that a reward refuses."""
        for column in getattr(self.rewards, "columns", ()):
            if column not in row and not (column in COLUMNS and ({*COLUMNS} & {*row} or holds_images(row))):
                models = getattr(self.rewards, "models", ())
                reader = next((model.name for model in models if column in model.columns), None)
                needs = f"the reward {reader!r} needs" if reader else "the rewards need"
                raise UserError(
                    f"{where}: {needs} a column {column!r}; the columns are {', '.join(map(repr, row)) or 'none'}. "
                    "Add it, or let the reward read another."
                )
        if check := getattr(self.rewards, "check_row", None):
            try:
                check(row)
            except ValueError as error:
                raise UserError(f"{where}: {error}") from error
