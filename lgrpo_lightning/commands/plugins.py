"""``lgrpo plugins``: the installed components."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lgrpo_lightning.plugins import registry


def main(argv: Sequence[str]) -> int:
    """Print one line a component: kind, name, package, version, summary."""
    if len(argv) > 1:
        print(
            "usage: lgrpo plugins\n\nList the installed components: kind, name, package, version and a line each."
        )
        return 0 if argv[1] in ("-h", "--help") else 2
    try:
        found = registry.components().values()
    except registry.PluginError as error:
        print(f"lgrpo: {error}", file=sys.stderr)
        return 1
    rows = sorted((c.kind, c.name, f"{c.package} {c.version}", c.summary) for c in found)
    widths = [max(len(r[i]) for r in rows) for i in range(3)]
    for kind, name, package, summary in rows:
        print(f"{kind:<{widths[0]}}  {name:<{widths[1]}}  {package:<{widths[2]}}  {summary}")
    return 0
