"""What the data module is given, as prompt sources by name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

from lgrpo_lightning.contracts import PromptSource
from lgrpo_lightning.data.files import PromptFile
from lgrpo_lightning.errors import UserError

Sets = PromptSource | str | dict[str, PromptSource | str] | None


def named_sources(which: str, given: Sets) -> dict[str, PromptSource]:
    """The sets given for ``which``, by name; paths become ``PromptFile``.

    Raises:
        ValueError: A name cannot name a set, or a path looks like a misspelt prompt source.
        TypeError: A set is neither a path nor a prompt source.

    >>> list(named_sources("validation", {"easy": "easy.jsonl", "hard": "hard.jsonl"}))
    ['easy', 'hard']
    """
    if given is None:
        return {}
    if not isinstance(given, dict):
        return {which: _source(f"data.{which}", given)}
    for name in given:
        if name == "class_path":
            known = ", ".join(sorted(_source_names()))
            raise UserError(f"data.{which}: there is no prompt source {given[name]!r}. There are: {known}.")
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(
                f"data.{which}: {name!r} cannot name a set; use letters, digits, '_', '-' and '.'."
            )
    return {name: _source(f"data.{which}.{name}", source) for name, source in given.items()}


MOST = 1_000_000
"""Rows of a source that does not say how many it has, after which it is taken for one without an end."""


def all_rows(rows: Iterable[Mapping[str, Any]], origin: str) -> Sequence[Mapping[str, Any]]:
    """The rows of a source; of a generator or a streaming data set, read to its end.

    A run holds all prompts: it draws their order, divides them among ranks and goes on at any of them.

    Raises:
        ValueError: There are more than ``MOST``, without an end in sight.
        TypeError: It gives no rows, or one that is no mapping.
    """
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
        raise UserError(
            f"{origin}: rows() gave a {type(rows).__name__}; it must give the rows, each a mapping."
        )
    if not hasattr(rows, "__len__"):
        rows = list(islice(rows, MOST + 1))
        if len(rows) > MOST:
            raise UserError(
                f"{origin} gives more than {MOST:,} rows without saying how many there are. A run holds all its "
                "prompts, to draw their order and to go on at any of them: let rows() end "
                "(dataset.take(n), itertools.islice), return a list, or set streaming: true for training prompts."
            )
    for number, row in enumerate(rows):
        check_row(row, number, origin)
    return cast(Sequence[Mapping[str, Any]], rows)


def check_row(row: Any, number: int, origin: str) -> None:
    """Refuse a row that is no mapping (``TypeError``)."""
    if not isinstance(row, Mapping):
        raise UserError(
            f"{origin}, row {number} (from 0) is a {type(row).__name__}; a row is a mapping with a 'prompt', such as "
            '{"prompt": "1+1=", "answer": 2}.'
        )


def _source(key: str, given: Any) -> PromptSource:
    if isinstance(given, PromptSource):
        return given
    if not isinstance(given, str | os.PathLike):
        raise UserError(f"{key}: {given!r} is neither a path nor a prompt source such as ArithmeticTasks().")
    path = os.fspath(given)
    meant = difflib.get_close_matches(path, _source_names(), n=1, cutoff=0.75)
    if meant and not Path(path).expanduser().exists():
        raise UserError(
            f"{key}: {path!r} is neither a file nor a prompt source. Did you mean {meant[0]!r}? "
            f"(In Python: an instance, {meant[0]}().)"
        )
    return PromptFile(path)


def _source_names() -> Mapping[str, type]:
    """The prompt sources that are loaded, by class name."""
    found: dict[str, type] = {}
    classes = [PromptSource]
    while classes:
        for kind in classes.pop().__subclasses__():
            found[kind.__name__] = kind
            classes.append(kind)
    return found
