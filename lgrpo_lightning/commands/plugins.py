"""``lgrpo plugins``: the installed components."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lgrpo_lightning.registry import lookup
from lgrpo_lightning.registry.loading import PluginError


def main(argv: Sequence[str]) -> int:
    """Print one line a component: kind, name, package, version, summary."""
    options = build_parser().parse_args(list(argv)[1:])
    if options.verbose:
        return list_packages()
    try:
        installed = lookup.components().values()
    except PluginError as error:
        print(f"lgrpo: {error} `lgrpo plugins --verbose` lists the others.", file=sys.stderr)
        return 1
    rows = sorted((c.kind, c.name, f"{c.package} {c.version}", c.summary) for c in installed)
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    for *columns, summary in rows:
        print("  ".join([*(f"{c:<{w}}" for c, w in zip(columns, widths, strict=True)), summary]).rstrip())
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="lgrpo plugins", description="List the installed components: kind, name, package, version and a line each."
    )
    add = parser.add_argument
    add("-v", "--verbose", action="store_true", help="load every package, show who brings what and what fails")
    return parser


def list_packages() -> int:
    """Load the packages one by one; 1 where one of them is broken."""
    import pluggy

    from lgrpo_lightning.registry import hookspecs
    from lgrpo_lightning.registry.loading import identify_package, list_entry_points, load_components

    broken, owners = 0, dict[str, str]()
    for entry in list_entry_points():
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        print(f"{' '.join(identify_package(entry))}  entry point {entry.name} = {entry.value}")
        try:
            offered = load_components(manager, entry)
        except PluginError as error:
            broken += 1
            print(f"  BROKEN: {error}")
            continue
        for component in offered:
            print(f"  {component.kind:<20} {component.name:<24} {component.cls.__module__}")
            other = owners.setdefault(component.name, component.package)
            if other != component.package:
                broken += 1
                print(f"  CLASH: {other} brings a component of that name, too.")
    return 1 if broken else 0
