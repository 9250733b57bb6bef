"""A configuration as it is put together, key by key, with a comment on each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from lgrpo_lightning.commands.migration.fields import OURS
from lgrpo_lightning.commands.migration.recipe import Recipe

MISSING = object()


class Line(NamedTuple):
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

    def get(self, field: str) -> Any:
        """What the file says of a field, else TRL's default."""
        self.asked.add(field)
        return self.recipe.get_value(field)

    def choose(self, field: str, possible: Iterable[Any]) -> Any:
        """The same of a field that takes one of these.

        Raises:
            ValueError: It is another one.
        """
        if (value := self.get(field)) not in (choices := list(possible)):
            raise self.recipe.refuse(field, ", ".join(str(choice).lower() for choice in choices))
        return value

    def is_given(self, field: str) -> bool:
        """Whether the file sets the field."""
        return field in self.recipe.given

    def put(self, key: str, value: Any, said: str = "") -> None:
        """Write a key."""
        self.lines[key] = Line(value, said)

    def carry(self, field: str, key: str, value: Any = MISSING, said: str = "") -> None:
        """Write what stands for a field, unless neither the file sets it nor TRL's default differs from ours.

        Args:
            value: The value here, where it is not the field's own.
            said: What differs.
        """
        own = self.get(field)
        value = own if value is MISSING else value
        if self.is_given(field) or OURS.get(key, MISSING) != value:
            source = self.name_source(field)
            self.put(key, value, f"{source}; {said}" if said else source)

    def name_source(self, field: str) -> str:
        """What a comment calls the field."""
        return field if self.is_given(field) else f"{field}: TRL's default"

    def remark(self, text: str, field: str | None = None) -> None:
        """Say what has no key; ``field`` is told with its place."""
        self.remarks.append(text if field is None else f"{self.recipe.describe_place(field)}: {text}")
