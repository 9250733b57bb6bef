"""Policy losses: what a token's log-prob and credit cost.

A module here that defines a ``PolicyLoss`` is all that a loss of the library takes: it is found, registered under its
class name, and can be imported from this package.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from lgrpo_lightning.contracts import PolicyLoss


@cache
def losses() -> dict[str, type[PolicyLoss]]:
    """Name → class of every loss defined in a module of this package."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    own = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, PolicyLoss) and value.__module__ == module.__name__
    ]
    return {cls.__name__: cls for cls in own}


def __getattr__(name: str) -> Any:
    if name.startswith("__") or name not in losses():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return losses()[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *losses()])
