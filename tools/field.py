"""An option of another library, and where it is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Field:
    """One row of a table.

    Attributes:
        name: The option there.
        default: Its default there.
        here: Keys of a configuration here, or options of components such as ``SAPO.temperature_pos``; none where
            there is no match.
        note: What differs; where there is no match, why or what does it instead. Sentences, without the last full stop.
    """

    name: str
    default: Any
    here: tuple[str, ...]
    note: str


Row = tuple[str, Any, str, str]
"""(name, default, what it is here with spaces between, note): a row as it is written down."""


def fields_of(rows: tuple[Row, ...]) -> dict[str, Field]:
    """The rows by name."""
    return {
        name: Field(name=name, default=default, here=tuple(here.split()), note=note)
        for name, default, here, note in rows
    }
