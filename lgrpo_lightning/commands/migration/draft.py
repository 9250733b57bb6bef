"""A configuration as it is put together, key by key, with a comment on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lgrpo_lightning.commands.migration.ours import OURS
from lgrpo_lightning.commands.migration.recipe import Recipe

MISSING = object()


@dataclass(frozen=True, kw_only=True)
class Line:
    """A value and the comment beside it."""

    value: Any
    said: str


class Draft:
    """Collects the keys of a configuration from a recipe, and what has no key.

    Attributes:
        lines: By dotted key, in the order in which they were put.
        remarks: What has no match or another meaning.
        asked: Fields that a rule has looked at.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.lines: dict[str, Line] = {}
        self.remarks: list[str] = list(recipe.remarks)
        self.asked: set[str] = set()

    def value(self, field: str) -> Any:
        """What the file says of a field, else TRL's default."""
        self.asked.add(field)
        return self.recipe.value(field)

    def written(self, field: str) -> bool:
        """Whether the file sets the field."""
        return field in self.recipe.given

    def put(self, key: str, value: Any, said: str = "") -> None:
        """Write a key."""
        self.lines[key] = Line(value=value, said=said)

    def carry(self, field: str, key: str, value: Any = MISSING, said: str = "") -> None:
        """Write what stands for a field, unless neither the file sets it nor TRL's default differs from ours.

        Args:
            value: The value here, where it is not the field's own.
            said: What differs.
        """
        own = self.value(field)
        value = own if value is MISSING else value
        if not self.written(field) and key in OURS and OURS[key] == value:
            return
        source = field if self.written(field) else f"{field}: TRL's default"
        self.put(key, value, f"{source}; {said}" if said else source)

    def remark(self, text: str, field: str | None = None) -> None:
        """Say what has no key; ``field`` is told with its place."""
        self.remarks.append(text if field is None else f"{self.recipe.place(field)}: {text}")
