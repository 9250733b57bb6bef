"""A draft as YAML with comments."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from lgrpo_lightning.commands.migration.draft import Draft, Line
from lgrpo_lightning.commands.migration.fields import VERSION

WIDTH = 118


def write_yaml(draft: Draft) -> str:
    """The whole file: remarks as comments, then the keys."""
    lines = [f"# From {draft.recipe.name}, for TRL {VERSION}. A comment behind a key names TRL's own."]
    if draft.remarks:
        lines += ["#", "# What has no match here, or another meaning:"]
        for remark in draft.remarks:
            lines += _wrap(remark, "# - ", "#   ")
    tree: dict[str, Any] = {key: {} for key in ("seed_everything", "trainer", "model", "data")}
    for key, line in draft.lines.items():
        *owners, name = key.split(".")
        place = tree
        for owner in owners:
            place = place.setdefault(owner, {})
        place[name] = line
    return "\n".join([*lines, *_write_block(tree, "")]) + "\n"


def _wrap(text: str, first: str, following: str) -> list[str]:
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=following, **options)


def _write_block(tree: dict[str, Any], indent: str) -> Iterator[str]:
    """The lines of a block; a key's comment is behind it, or above where that would be too wide."""
    for key, line in tree.items():
        if not isinstance(line, Line):
            if line:
                yield f"{indent}{key}:"
                yield from _write_block(line, indent + "  ")
            continue
        comment = f"  # {line.said}" if line.said else ""
        text = f"{indent}{key}: {write_flow(line.value)}"
        if isinstance(line.value, list) and any(isinstance(item, dict) for item in line.value):
            yield f"{indent}{key}:{comment}"
            yield from (f"{indent}  - {write_flow(item)}" for item in line.value)
        elif comment and len(text) + len(comment) > WIDTH:
            yield from _wrap(line.said, f"{indent}# ", f"{indent}# ")
            yield text
        else:
            yield text + comment


def write_flow(value: Any) -> str:
    """A value on one line.

    >>> write_flow(1e-6), write_flow([1, "a"]), write_flow(None), write_flow("no")
    ('1.0e-06', '[1, a]', 'null', "'no'")
    """
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
