"""What is installed, remembered: listing it again imports nothing."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

from lgrpo_lightning.plugins.installed import enabled_entry_points, package

Row = tuple[str, str, str, str]
"""Kind, name, package with version, summary."""


def cache_file() -> Path:
    """Where the list is kept: ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lgrpo_lightning" / "plugins.json"
    )


def listed() -> list[Row]:
    """The installed components, sorted; from the cache where no package has changed.

    Raises:
        PluginError: A package is broken; nothing is remembered then.
    """
    state = fingerprint(enabled_entry_points())
    if (rows := _remembered(state)) is not None:
        return rows
    from lgrpo_lightning.plugins import registry

    found = registry.components().values()
    rows = sorted((c.kind, c.name, f"{c.package} {c.version}", c.summary) for c in found)
    _remember(state, rows)
    return rows


def fingerprint(entries: Sequence[EntryPoint]) -> str:
    """Of the packages behind the entry points: names, versions, and their files' sizes and times of change."""
    state = hashlib.sha256(f"{sys.executable} {sys.version}".encode())
    for entry in entries:
        state.update(f"{package(entry)} {entry.name} {entry.value}".encode())
        for file in sorted(_files(entry.module.partition(".")[0])):
            about = file.stat()
            state.update(f"{file} {about.st_size} {about.st_mtime_ns}".encode())
    return state.hexdigest()


def _files(module: str) -> Iterator[Path]:
    """The source files of a module or package; none where it is not found."""
    spec = find_spec(module)
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        if spec.origin:
            yield Path(spec.origin)
        return
    for folder in spec.submodule_search_locations:
        yield from Path(folder).rglob("*.py")


def _remembered(state: str) -> list[Row] | None:
    try:
        kept = json.loads(cache_file().read_text(encoding="utf-8"))
        return [(a, b, c, d) for a, b, c, d in kept["rows"]] if kept["state"] == state else None
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not ours: it is made anew
        return None


def _remember(state: str, rows: Sequence[Row]) -> None:
    path = cache_file()
    hidden = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_text(json.dumps({"state": state, "rows": rows}), encoding="utf-8")
        hidden.replace(path)
    except OSError:  # a home that cannot be written to: listed anew next time
        hidden.unlink(missing_ok=True)
