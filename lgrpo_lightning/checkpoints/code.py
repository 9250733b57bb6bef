"""The code that a run is made of, so that a resumed one can say what of it has changed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from lgrpo_lightning.rollouts.environment import describe_environment

FOREIGN = ("builtins", "torch", "transformers", "lightning", "threading")
"""Packages whose objects hold no code of a run."""


def read_code(components: Mapping[str, Any]) -> dict[str, str]:
    """Name → version of a package, or digest of the file that holds a component or a function of one."""
    versions = dict(describe_environment()["packages"])
    for component in components.values():
        for code in _list_code(component):
            name = f"{code.__module__}.{code.__qualname__}"
            try:
                versions[name] = sha256(Path(inspect.getfile(code)).read_bytes()).hexdigest()[:16]
            except (OSError, TypeError):  # written on a terminal, or compiled
                continue
    return versions


def list_changed_code(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A line for each that both have and that differs."""
    return [
        f"  {name}: the file in which it is written has changed" if "." in name else f"  {name}: {was[name]} -> {new}"
        for name, new in sorted(now.items())
        if was.get(name, new) != new
    ]


def _list_code(value: Any, depth: int = 4) -> Iterator[Any]:
    """The classes and functions of ``value`` and of what it holds, but for those of the standard library and torch."""
    if isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _list_code(item, depth - 1) if depth else ()
    elif isinstance(value, partial):
        yield from _list_code(value.func, depth)
    elif isinstance(value, FunctionType | MethodType | type):
        yield value
    elif hasattr(value, "__dict__") and depth and type(value).__module__.partition(".")[0] not in FOREIGN:
        yield type(value)
        yield from _list_code(list(vars(value).values()), depth - 1)
