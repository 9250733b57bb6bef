"""Which packages offer components, without importing any of them."""

from __future__ import annotations

import os
import re
from importlib.metadata import EntryPoint, entry_points

from lgrpo_lightning.registry import hookspecs

DISABLE = "LGRPO_DISABLE_PLUGINS"
"""Environment variable: names of packages not to load, with commas between them."""


def list_entry_points() -> list[EntryPoint]:
    """The entry points of the group, the built-in one first, without the disabled packages."""
    skipped = {_normalise(n) for n in os.environ.get(DISABLE, "").split(",")} - {_normalise(hookspecs.PROJECT)}
    entries = [e for e in entry_points(group=hookspecs.PROJECT) if _normalise(identify_package(e)[0]) not in skipped]
    return sorted(entries, key=lambda e: (identify_package(e)[0] != hookspecs.PROJECT, identify_package(e)[0], e.name))


def identify_package(entry: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution of an entry point."""
    return (entry.dist.name, entry.dist.version) if entry.dist else ("(unknown)", "(unknown)")


def _normalise(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
