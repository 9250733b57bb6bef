"""Errors that are meant for the user, and the checks of options and names of metrics that raise them.

``lgrpo`` prints the message of a ``UserError`` alone, and a traceback for every other error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

OWN_METRICS = re.compile(
    "step|epoch|rollout|loss|reward|reward_std|frac_reward_zero_std|rewards/not_applicable|rewards/[^/]+/(mean|std)|kl|"
    "grad_norm|gradient_snr|learning_rate|entropy|entropy_coef|router_loss|tokens_per_second|mfu|"
    "(steps|groups|curriculum|completions|tree|updates|sampling|time|val|test)/.*"
)
"""Names of metrics that no component may log under: its numbers would be averaged into the library's."""
NAMES = {str: "string", int: "integer", float: "number", bytes: "bytes"}


class UserError(ValueError):
    """What the user gave cannot be used; the message says what was wrong, where, what is possible and what to do.

    Plug-ins raise it too, where their users can mend what is wrong.
    """


class NotFoundError(UserError, FileNotFoundError):
    """A file or folder that the user named is not there."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """What the user asked for needs a package that is not installed."""


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
    lgrpo_lightning.errors.UserError: sampling.stop is the string 'abc', where a list is meant: write ['abc'].
    """
    refuse_text(key, value)
    kinds = of if isinstance(of, tuple) else (of,)
    wanted = " or ".join(NAMES.get(kind, kind.__name__) for kind in kinds)
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise UserError(f"{key} is {value!r}, where a list is meant; its entries are of type {wanted}.")
    entries = tuple(value)
    for entry in entries:
        if not isinstance(entry, kinds) or (isinstance(entry, bool) and bool not in kinds):
            raise UserError(f"{key} has {entry!r}, a {type(entry).__name__}; each entry is of type {wanted}.")
    return entries


def mapped(key: str, value: Any) -> dict[str, Any]:
    """The entries of an option that takes values by name.

    Raises:
        ValueError: It is something else, or a name is no string.

    >>> mapped("kwargs", "abc")
    Traceback (most recent call last):
    ...
    lgrpo_lightning.errors.UserError: kwargs is 'abc', where values by name are meant, such as {'name': 'value'}.
    """
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{key} is {value!r}, where values by name are meant, such as {{'name': 'value'}}.")
    return dict(value)


def check_metrics(owner: str, names: Iterable[Any]) -> None:
    """Refuse names of metrics that are the library's own, or that a spreadsheet would take for a formula.

    Raises:
        ValueError: With the name.

    >>> check_metrics("Mine", ["rewards/Mine/longest", "kl"])
    Traceback (most recent call last):
    ...
    lgrpo_lightning.errors.UserError: Mine logs a metric 'kl', a name of the library's own. Call it Mine/kl, say.
    """
    for name in names:
        if not isinstance(name, str) or not name.isprintable() or not re.match(r"\w", name):
            raise UserError(
                f"{owner} logs a metric {name!r}; a name is printable text that begins with a letter or digit."
            )
        if OWN_METRICS.fullmatch(name):
            raise UserError(
                f"{owner} logs a metric {name!r}, a name of the library's own. Call it {owner}/{name}, say."
            )


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
    lgrpo_lightning.errors.UserError: sampling.top_k is -1; it must be at least 0 (0 keeps every token).
    """
    for ok, name, what in rows:
        if not ok:
            raise UserError(f"{owner}{name} is {values[name]!r}; it must be {what}.")


def hint(name: str, possible: Iterable[str]) -> str:
    """The possible name that is close to ``name``, as the next sentence of a message; nothing where none is.

    >>> hint("LamdaGRPO", ["GRPO", "LambdaGRPO"])
    " Did you mean 'LambdaGRPO'?"
    """
    close = get_close_matches(name, list(possible), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def refuse_text(key: str, value: Any) -> None:
    """Refuse a string where several values are meant: its characters would be taken for them.

    Raises:
        ValueError: With the list that was meant.
    """
    if isinstance(value, str | bytes):
        raise UserError(f"{key} is the {NAMES[type(value)]} {value!r}, where a list is meant: write [{value!r}].")
