"""Finds the plug-in packages, loads them one by one, and refuses what does not keep the rules, naming the package."""

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
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.registry import hookspecs

HOOK = "lgrpo_components"
DISABLE = "LGRPO_DISABLE_PLUGINS"
"""Environment variable: names of packages not to load, with commas between them."""


class PluginError(UserError):
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


def load_components(entry: EntryPoint) -> list[Component]:
    """The components of one entry point, each checked."""
    owner, version = identify_package(entry)
    where = f"Plug-in package {owner} {version} (entry point {entry.name!r} = {entry.value!r})"
    remedy = f"Update it, uninstall it (pip uninstall {owner}), or set {DISABLE}={owner} to run without it."
    try:
        plugin = entry.load()
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # also what would end lgrpo without a word
        raise PluginError(f"{where} cannot be imported: {type(error).__name__}: {error}. {remedy}") from error
    made_for = getattr(plugin, "LGRPO_CONTRACT", hookspecs.CONTRACT)
    if made_for > hookspecs.CONTRACT:
        raise PluginError(
            f"{where} was made for version {made_for} of the contracts; this lgrpo_lightning has version "
            f"{hookspecs.CONTRACT}. Update lgrpo_lightning (pip install -U lgrpo_lightning), take an older {owner}, or "
            f"set {DISABLE}={owner} to run without it."
        )
    hook = _find_hook(plugin, where)
    try:
        classes: Iterable[Any] = list(hook())
    except (Exception, SystemExit) as error:
        raise PluginError(f"{where}: {HOOK}() failed: {type(error).__name__}: {error}. {remedy}") from error
    return [
        Component(
            name=cls.__name__,
            kind=kind,
            cls=cls,
            package=owner,
            version=version,
            summary=(cls.__doc__ or "").strip().split("\n")[0],
        )
        for cls, kind in ((c, _find_kind(c, where)) for c in classes)
    ]


def _find_hook(plugin: Any, where: str) -> Any:
    """The plug-in's hook function."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    expected = f"It must define `{HOOK}()`, marked with @hookimpl from lgrpo_lightning"
    try:
        manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{where}: {' '.join(str(error).split())}. {expected}, without arguments.") from error
    for implementation in manager.hook.lgrpo_components.get_hookimpls():
        return implementation.function
    unmarked = " The function is there, but not marked." if hasattr(plugin, HOOK) else ""
    raise PluginError(f"{where} implements no hook. {expected}.{unmarked}")


def _find_kind(cls: Any, where: str) -> str:
    """Which contract a class fulfils."""
    if not isinstance(cls, type):
        raise PluginError(f"{where}: {HOOK}() returned {cls!r}; it must return classes, not instances or names.")
    kinds = [kind for kind, contract in CONTRACTS.items() if issubclass(cls, contract)]
    if not kinds:
        possible = ", ".join(c.__name__ for c in CONTRACTS.values())
        raise PluginError(f"{where}: {cls.__name__} fulfils no contract; derive it from one of {possible}.")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if inspect.isabstract(cls):
        raise PluginError(f"{where}: {cls.__name__} is abstract; it lacks {', '.join(missing)}.")
    if issubclass(cls, RewardModel) and cls.score is RewardModel.score and cls.score_batch is RewardModel.score_batch:
        raise PluginError(f"{where}: {cls.__name__} scores nothing; define score or score_batch.")
    return kinds[0]
