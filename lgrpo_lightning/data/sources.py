"""What the data module is given, as prompt sources by name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lgrpo_lightning.contracts import PromptSource
from lgrpo_lightning.data.files import PromptFile

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
            raise ValueError(f"data.{which}: there is no prompt source {given[name]!r}. There are: {known}.")
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(
                f"data.{which}: {name!r} cannot name a set; use letters, digits, '_', '-' and '.'."
            )
    return {name: _source(f"data.{which}.{name}", source) for name, source in given.items()}


def _source(key: str, given: Any) -> PromptSource:
    if isinstance(given, PromptSource):
        return given
    if not isinstance(given, str | os.PathLike):
        raise TypeError(f"{key}: {given!r} is neither a path nor a prompt source such as ArithmeticTasks().")
    path = os.fspath(given)
    meant = difflib.get_close_matches(path, _source_names(), n=1, cutoff=0.75)
    if meant and not Path(path).expanduser().exists():
        raise ValueError(
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
