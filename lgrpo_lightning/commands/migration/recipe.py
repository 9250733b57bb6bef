"""What a file asks of TRL, whatever it was written in."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from lgrpo_lightning.commands.migration.fields import DEFAULTS
from lgrpo_lightning.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Given:
    """A value and where it was written, such as "run.yaml, line 3"."""

    value: Any
    place: str


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Where prompts come from, and how they are made of the rows.

    Attributes:
        path: A file or a hub data set.
        column: The column with the prompt, or with the user's message where ``chat``.
    """

    path: str
    subset: str | None = None
    split: str | None = None
    column: str = "prompt"
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
    """A training run of TRL.

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

    def get_value(self, name: str) -> Any:
        """What the file says, else TRL's default."""
        return self.given[name].value if name in self.given else DEFAULTS[name]

    def describe_place(self, name: str) -> str:
        """The field and where it was written."""
        if name in self.unread:
            return name
        return f"{name} ({self.given[name].place})" if name in self.given else f"{name}, TRL's default"

    def refuse(self, name: str, possible: str) -> UserError:
        """The error that the value of a field is not possible."""
        where = self.given[name].place if name in self.given else self.name
        return UserError(f"{where}: {name} is {self.get_value(name)!r}; TRL takes {possible}.")
