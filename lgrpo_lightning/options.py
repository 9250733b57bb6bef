"""Checks of options: ranges, and several values (a string is one value, no list of its characters); the run's seed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

NAMES = {str: "string", int: "integer", float: "number", bytes: "bytes"}


def listed(key: str, value: Any, *, of: type | tuple[type, ...] = str) -> tuple[Any, ...]:
    """The entries of an option that takes a list.

    Args:
        key: What the message calls the option.
        of: Types of an entry. True and false are no numbers.

    Raises:
        ValueError: It is one value in place of a list, or an entry is of another type.

    >>> listed("sampling.stop", ["a", "b"])
    ('a', 'b')
    >>> listed("sampling.stop", "abc")
    Traceback (most recent call last):
    ...
    ValueError: sampling.stop is the string 'abc', where a list is meant: write ['abc'].
    """
    refuse_text(key, value)
    kinds = of if isinstance(of, tuple) else (of,)
    wanted = " or ".join(NAMES.get(kind, kind.__name__) for kind in kinds)
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise ValueError(f"{key} is {value!r}, where a list is meant; its entries are of type {wanted}.")
    entries = tuple(value)
    for entry in entries:
        if not isinstance(entry, kinds) or (isinstance(entry, bool) and bool not in kinds):
            raise ValueError(
                f"{key} has {entry!r}, a {type(entry).__name__}; each entry is of type {wanted}."
            )
    return entries


def mapped(key: str, value: Any) -> dict[str, Any]:
    """The entries of an option that takes values by name.

    Raises:
        ValueError: It is something else, or a name is no string.

    >>> mapped("kwargs", "abc")
    Traceback (most recent call last):
    ...
    ValueError: kwargs is 'abc', where values by name are meant, such as {'name': 'value'}.
    """
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{key} is {value!r}, where values by name are meant, such as {{'name': 'value'}}.")
    return dict(value)


def require(owner: str, values: Mapping[str, Any], *rows: tuple[bool, str, str]) -> None:
    """Refuse the first option that is out of range.

    Args:
        owner: What stands before an option's name in the message.
        values: The options by name, such as ``locals()`` of a function, or ``vars`` of a data class.
        rows: (whether it is in range, the option's name, what it must be).

    Raises:
        ValueError: One is not in range.

    >>> require("sampling.", {"top_k": -1}, (False, "top_k", "at least 0 (0 keeps every token)"))
    Traceback (most recent call last):
    ...
    ValueError: sampling.top_k is -1; it must be at least 0 (0 keeps every token).
    """
    for ok, name, what in rows:
        if not ok:
            raise ValueError(f"{owner}{name} is {values[name]!r}; it must be {what}.")


def refuse_text(key: str, value: Any) -> None:
    """Refuse a string where several values are meant: its characters would be taken for them.

    Raises:
        ValueError: With the list that was meant.
    """
    if isinstance(value, str | bytes):
        raise ValueError(
            f"{key} is the {NAMES[type(value)]} {value!r}, where a list is meant: write [{value!r}]."
        )


def run_seed() -> int:
    """The seed set by ``seed_everything``, else 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
