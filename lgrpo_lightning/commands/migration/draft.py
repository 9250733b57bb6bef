"""What a file asks of TRL, and the configuration that is put together from it, key by key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lgrpo_lightning.commands.migration.fields import DEFAULTS, NUMBERS_OR_NULL, OURS
from lgrpo_lightning.errors import UserError

MISSING = object()


class Given(NamedTuple):
    """A value and where it was written, such as "run.yaml, line 3"."""

    value: Any
    place: str


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Options of ``PromptFile``, and those of ``data`` where prompts are made of a user's message in a column."""

    path: str
    subset: str | None = None
    split: str | None = None
    prompt_column: str = "prompt"
    limit: int | None = None
    chat: bool = False
    system_prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A function or class by its import path; None where it has none, and ``said`` tells why."""

    path: str | None
    said: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run of TRL, whatever it was written in.

    Attributes:
        name: The file.
        given: The fields that it sets, by name.
        unread: Fields that it sets to what only running it would tell.
        rewards: Its reward functions, in order.
        tools: Functions that the model may call.
        environments: What makes its environments, by the names in the data column ``environment``; "" for all rows.
        environments_reward: Whether they have rewards of their own.
        train, evaluation: Its prompts; None where the file does not tell.
        remarks: What could not be read, and where.
    """

    name: str
    given: Mapping[str, Given]
    unread: Set[str] = frozenset()
    rewards: tuple[Imported, ...] = ()
    tools: tuple[Imported, ...] = ()
    environments: Mapping[str, Imported] = field(default_factory=dict)
    environments_reward: bool = False
    train: DataSet | None = None
    evaluation: DataSet | None = None
    remarks: tuple[str, ...] = ()


class Line(NamedTuple):
    """The value of a key and the comment beside it."""

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
        default = DEFAULTS[field]
        value = self.recipe.given[field].value if self.is_given(field) else default
        if field in NUMBERS_OR_NULL and value is None:
            return None
        if (field in NUMBERS_OR_NULL or type(default) in (int, float)) and not isinstance(value, int | float):
            raise self.refuse(field, "a number")
        if field.endswith("kwargs") and not isinstance(value, dict | None):
            raise self.refuse(field, "values by name")
        return value

    def choose(self, field: str, possible: Iterable[Any]) -> Any:
        """The same of a field that takes one of these."""
        if (value := self.get(field)) not in (choices := list(possible)):
            raise self.refuse(field, ", ".join(str(choice).lower() for choice in choices))
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
        if field is not None and self.is_given(field):
            text = f"{field} ({self.recipe.given[field].place}): {text}"
        elif field is not None:
            unset = "" if field in self.recipe.unread else ", TRL's default"
            text = f"{field}{unset}: {text}"
        self.remarks.append(text)

    def refuse(self, field: str, possible: str) -> UserError:
        """The error that the value of a field is not possible."""
        given = self.recipe.given.get(field)
        where, value = (given.place, given.value) if given else (self.recipe.name, DEFAULTS[field])
        return UserError(f"{where}: {field} is {value!r}; TRL takes {possible}.")
