"""The prompts of one set, checked against what the rewards of the run need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]

from lgrpo_lightning.contracts import PromptSource
from lgrpo_lightning.data.encoding import PromptEncoder
from lgrpo_lightning.data.sources import check_row
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Prompt


class SetEncoder:
    """Makes prompts of the rows of one set.

    Args:
        name: Of the set; uids begin with it.
        source: Where its rows come from, for messages.
        encoder: Makes a prompt of a row.
        module: The LightningModule of the run, whose rewards read the other columns.
    """

    def __init__(self, name: str, source: PromptSource, encoder: PromptEncoder, module: Any) -> None:
        self.name, self.encoder = name, encoder
        self.origin = str(getattr(source, "path", type(source).__name__))
        rewards = getattr(module, "reward_model", None)
        self.required = getattr(rewards, "columns", ())
        models = getattr(rewards, "models", ())
        self.readers = {column: model.name for model in models for column in model.columns}
        self.check = getattr(rewards, "check_row", None)

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> list[Prompt]:
        """The prompts of all rows; says how many were left out for their length."""
        self._check_columns(rows)
        prompts = self.encoder.encode(rows, name=self.name, origin=self.origin)
        if dropped := len(rows) - len(prompts):
            rank_zero_warn(
                f"{self.origin}: {dropped} of {len(rows)} prompts left out: over {self.encoder.max_length} tokens."
            )
        return prompts

    def encode_row(self, row: Mapping[str, Any], number: int) -> Prompt | None:
        """The prompt of row ``number`` of a stream; None where it is left out for its length."""
        check_row(row, number, self.origin)
        self._check_columns([row], number)
        return self.encoder.encode_row(row, number, name=self.name, origin=self.origin)

    def _check_columns(self, rows: Sequence[Mapping[str, Any]], first: int = 0) -> None:
        check_columns(rows, self.required, origin=self.origin, readers=self.readers, check=self.check, first=first)


def check_columns(
    rows: Sequence[Mapping[str, Any]],
    required: Sequence[str],
    *,
    origin: str,
    readers: Mapping[str, str] | None = None,
    check: Callable[[Mapping[str, Any]], None] | None = None,
    first: int = 0,
) -> None:
    """Refuse rows without a column that a reward reads, or with one that it cannot judge by.

    Args:
        rows: The data.
        required: The columns.
        origin: What to call the rows.
        readers: Column → the reward that reads it, where that is known.
        check: Refuses (``ValueError``) a row that cannot be judged.
        first: Number of the first of the rows.
    """
    for number, row in enumerate(rows, first):
        for column in required:
            if column not in row:
                reader = (readers or {}).get(column)
                needs = f"the reward {reader!r} needs" if reader else "the rewards need"
                raise UserError(
                    f"{origin}, row {number} (from 0): {needs} a column {column!r}; the columns are "
                    f"{', '.join(map(repr, row)) or 'none'}. Add it, or let the reward read another."
                )
        if check is not None:
            try:
                check(row)
            except ValueError as error:
                raise UserError(f"{origin}, row {number} (from 0): {error}") from error
