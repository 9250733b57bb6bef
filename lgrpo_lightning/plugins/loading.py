"""Loads the plug-in packages one by one and refuses what does not keep the rules, naming the package."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from lgrpo_lightning.contracts import CONTRACTS, RewardModel
from lgrpo_lightning.plugins import hookspecs

HOOK = "lgrpo_components"
DISABLE = "LGRPO_DISABLE_PLUGINS"
"""Environment variable: names of packages not to load, with commas between them."""


class PluginError(RuntimeError):
    """An installed package offers components in a way that does not work; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """A component that is installed.

    Attributes:
        name: Its class name, by which configurations name it.
        kind: A key of ``contracts.CONTRACTS``, such as "reward_model".
        cls: The class.
        package, version: The distribution that brings it.
        summary: The first line of the class's docstring.
    """

    name: str
    kind: str
    cls: type
    package: str
    version: str
    summary: str


def enabled_entry_points() -> list[EntryPoint]:
    """The entry points of the group, the built-in one first, without the disabled packages."""
    skipped = {_canonical(n) for n in os.environ.get(DISABLE, "").split(",")} - {
        _canonical(hookspecs.PROJECT)
    }
    entries = [e for e in entry_points(group=hookspecs.PROJECT) if _canonical(_package(e)[0]) not in skipped]
    return sorted(entries, key=lambda e: (_package(e)[0] != hookspecs.PROJECT, _package(e)[0], e.name))


def offered(manager: pluggy.PluginManager, entry: EntryPoint) -> list[Component]:
    """The components of one entry point, each checked."""
    package, version = _package(entry)
    where = f"Plug-in package {package} {version} (entry point {entry.name!r} = {entry.value!r})"
    remedy = (
        f"Update it, uninstall it (pip uninstall {package}), or set {DISABLE}={package} to run without it."
    )
    try:
        plugin = entry.load()
    except Exception as error:
        raise PluginError(f"{where} cannot be imported: {type(error).__name__}: {error}. {remedy}") from error
    hook = _hook(manager, plugin, where)
    try:
        classes: Iterable[Any] = list(hook())
    except Exception as error:
        raise PluginError(f"{where}: {HOOK}() failed: {type(error).__name__}: {error}. {remedy}") from error
    return [
        Component(
            name=cls.__name__,
            kind=kind,
            cls=cls,
            package=package,
            version=version,
            summary=(cls.__doc__ or "").strip().split("\n")[0],
        )
        for cls, kind in ((c, _kind(c, where)) for c in classes)
    ]


def _hook(manager: pluggy.PluginManager, plugin: Any, where: str) -> Any:
    """The plug-in's hook function, registered."""
    expected = f"It must define `{HOOK}()`, marked with @hookimpl from lgrpo_lightning"
    try:
        manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(
            f"{where}: {' '.join(str(error).split())}. {expected}, without arguments."
        ) from error
    for implementation in manager.hook.lgrpo_components.get_hookimpls():
        if implementation.plugin is plugin:
            return implementation.function
    unmarked = " The function is there, but not marked." if hasattr(plugin, HOOK) else ""
    raise PluginError(f"{where} implements no hook. {expected}.{unmarked}")


def _kind(cls: Any, where: str) -> str:
    """Which contract a class fulfils."""
    if not isinstance(cls, type):
        raise PluginError(
            f"{where}: {HOOK}() returned {cls!r}; it must return classes, not instances or names."
        )
    kinds = [kind for kind, contract in CONTRACTS.items() if issubclass(cls, contract)]
    if not kinds:
        possible = ", ".join(c.__name__ for c in CONTRACTS.values())
        raise PluginError(f"{where}: {cls.__name__} fulfils no contract; derive it from one of {possible}.")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if inspect.isabstract(cls):
        raise PluginError(f"{where}: {cls.__name__} is abstract; it lacks {', '.join(missing)}.")
    if (
        issubclass(cls, RewardModel)
        and cls.score is RewardModel.score
        and cls.score_batch is RewardModel.score_batch
    ):
        raise PluginError(f"{where}: {cls.__name__} scores nothing; define score or score_batch.")
    return kinds[0]


def _package(entry: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution of an entry point."""
    return (entry.dist.name, entry.dist.version) if entry.dist else ("(unknown)", "(unknown)")


def _canonical(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
