"""Finds what a dotted import path names."""

from __future__ import annotations

import inspect
import os
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from lgrpo_lightning.errors import UserError, hint

FILES = frozenset(
    """
    arrow bin bz2 ckpt csv feather gguf gz ipynb json jsonl md ndjson parquet pq pt pth py safetensors sh toml tsv txt
    xz yaml yml zip zst
    """.split()  # noqa: SIM905
)
"""Endings that are a file's, not the name of a class or function."""
STANDARD = sys.stdlib_module_names
"""Python's own modules: nothing of them is a component, and much of it runs or removes whatever it is given."""
STANDARD_REFUSED = (
    "of Python's standard library, which a configuration does not name: much of it runs or removes what it is given. "
    "Name a component (`lgrpo plugins` lists them), or a class or function of your own that calls it."
)


def names_a_file(text: str) -> bool:
    """Whether ``text`` is the name of a file, there or misspelt, and not an import path.

    >>> names_a_file("train.jsonl"), names_a_file("my_rewards.accuracy")
    (True, False)
    """
    return text.rpartition(".")[2].lower() in FILES or Path(text).expanduser().exists()


def import_object(path: str) -> Any:
    """The object at ``package.module.name`` (or ``package.module:name``), from the working directory too.

    Raises:
        ValueError: Nothing is there; the message says how far the path leads and what is there instead. Or it is of
            Python's standard library, by whatever path.

    >>> import_object("numpy.sqrt")(9.0).item()
    3.0
    """
    parts = path.replace(":", ".").split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise UserError(f"{path!r} is no import path; write it as 'package.module.function'.")
    if names_a_file(path):
        raise UserError(
            f"{path!r} names a file. Write an import path, such as '{parts[0]}.function' for a function in "
            f"{parts[0]}.py."
        )
    if parts[0] in STANDARD:
        raise UserError(f"{path!r} is {STANDARD_REFUSED}")
    search_working_directory()
    depth = _count_modules(parts)
    if not depth:
        raise UserError(
            f"{path!r}: there is no module {parts[0]!r}. Modules are searched in the working directory "
            f"({os.getcwd()}) and among the installed packages; set PYTHONPATH for another folder."
        )
    try:
        target: Any = import_module(".".join(parts[:depth]))
    except Exception as error:
        raise UserError(
            f"{path!r}: importing {'.'.join(parts[:depth])!r} failed with {type(error).__name__}: {error}"
        ) from error
    for name in parts[depth:]:
        if not hasattr(target, name):
            raise UserError(_explain_absent(path, target, name))
        target = getattr(target, name)
    if callable(target) and _find_package(target) in STANDARD:  # by way of a module that imports it
        raise UserError(f"{path!r} is {STANDARD_REFUSED}")
    return target


def search_working_directory() -> None:
    """Let a module in the working directory be imported, after the installed packages."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())


def _find_package(target: Any) -> str:
    """The package in which what is called is defined."""
    while isinstance(target, partial):
        target = target.func
    named = target if inspect.isroutine(target) or isinstance(target, type) else type(target)
    return str(getattr(named, "__module__", "")).partition(".")[0]


def _count_modules(parts: list[str]) -> int:
    """How many leading parts of the path are modules; the last part is taken as a name in one."""
    for depth in range(1, len(parts)):
        try:
            spec = find_spec(".".join(parts[:depth]))
        except ModuleNotFoundError:  # the parent is no package
            spec = None
        if spec is None:
            return depth - 1
    return len(parts) - 1


def _explain_absent(path: str, target: Any, name: str) -> str:
    """The message for a name that an object does not have."""
    there = sorted(n for n in vars(target) if not n.startswith("_") and callable(vars(target)[n]))
    kind = "Module" if isinstance(target, ModuleType) else type(target).__name__
    return (
        f"{path!r}: {kind} {target.__name__ if hasattr(target, '__name__') else target!r} has no {name!r}."
        f"{hint(name, there)} It has: {', '.join(there) or 'nothing that can be called'}."
    )
