"""``lgrpo plugins``: the installed components."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lgrpo_lightning.registry.loading import Component, PluginError, list_entry_points, load_components
from lgrpo_lightning.registry.lookup import explain_clash


def main(argv: Sequence[str]) -> int:
    """Print one line a component: kind, name, package, version, summary; 1 where a package is broken."""
    parser = argparse.ArgumentParser(
        prog="lgrpo plugins", description="List the installed components: kind, name, package, version and a line each."
    )
    add = parser.add_argument
    add("-v", "--verbose", action="store_true", help="show entry points and modules in place of the lines")
    verbose = parser.parse_args(list(argv)[1:]).verbose
    found, rows, errors = dict[str, Component](), list[tuple[str, ...]](), list[str]()
    for entry in list_entry_points():
        try:
            offered = load_components(entry)
        except PluginError as error:
            errors.append(str(error))
            continue
        for component in offered:
            other = found.setdefault(component.name, component)
            if other.cls is not component.cls:
                errors.append(explain_clash(other, component))
            last = f"{entry.name} = {component.cls.__module__}" if verbose else component.summary
            rows.append((component.kind, component.name, f"{component.package} {component.version}", last))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    for *columns, last in sorted(rows):
        print("  ".join([*(f"{c:<{w}}" for c, w in zip(columns, widths, strict=True)), last]).rstrip())
    for text in errors:
        print(f"BROKEN: {text}", file=sys.stdout if verbose else sys.stderr)
    return 1 if errors else 0
