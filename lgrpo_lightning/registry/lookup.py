"""Finds the components of every installed package, and explains names that it does not find.

A package offers components through the entry-point group ``lgrpo_lightning`` and the hook of ``hookspecs``;
the built-in ones come the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType

from lgrpo_lightning.registry.loading import DISABLE, Component, PluginError, list_entry_points, load_components


@cache
def components() -> Mapping[str, Component]:
    """Every installed component by name, loaded once a process (``components.cache_clear()`` loads anew).

    Raises:
        PluginError: A package fails to import, misuses the hook, or brings a name that another one has.
    """
    by_name: dict[str, Component] = {}
    for entry in list_entry_points():
        for component in load_components(entry):
            other = by_name.setdefault(component.name, component)
            if other.cls is not component.cls:
                raise PluginError(explain_clash(other, component))
    return MappingProxyType(by_name)


def explain_clash(first: Component, second: Component) -> str:
    """Why two components of one name cannot be."""
    one, two = (f"{c.package} {c.version} ({c.cls.__module__})" for c in (first, second))
    return (
        f"Two packages bring a component called {first.name!r}: {one} and {two}. Names must be unique; uninstall one "
        f"of them, or set {DISABLE}={second.package}."
    )


def explain_unknown(kind: str, name: str) -> str:
    """Why ``name`` is no component of this kind, what was perhaps meant, what there is, what to do."""
    other = components().get(name)
    about = (
        f"{name!r} is not {_add_article(kind)}."
        if other is None
        else f"{name!r} is {_add_article(other.kind)}, not {_add_article(kind)}."
    )
    installed = sorted(c.name for c in components().values() if c.kind == kind)
    lower = {n.lower(): n for n in installed}
    close = get_close_matches(name.lower(), lower, n=1)
    meant = f" Did you mean {lower[close[0]]!r}?" if close else ""
    return (
        f"{about}{meant} Installed: {', '.join(installed) or 'none'}. If it comes from a plug-in, install "
        "its package (pip install ...) and check `lgrpo plugins`; name your own class by its import path."
    )


def _add_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
