"""A draft as YAML with comments."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from lgrpo_lightning.commands.migration.draft import Draft, Line
from lgrpo_lightning.commands.migration.trl_fields import VERSION

WIDTH = 118
ORDER = ("seed_everything", "trainer", "model", "data")

Tree = dict[str, Any]


def page(draft: Draft) -> str:
    """The whole file: remarks as comments, then the keys."""
    lines = [f"# From {draft.recipe.name}, for TRL {VERSION}. A comment behind a key names TRL's own."]
    if draft.remarks:
        lines += ["#", "# What has no match here, or another meaning:"]
        for remark in draft.remarks:
            lines += textwrap.wrap(remark, WIDTH, initial_indent="# - ", subsequent_indent="#   ", **UNCUT)
    tree: Tree = {key: {} for key in ORDER}
    for key, line in draft.lines.items():
        *owners, name = key.split(".")
        place = tree
        for owner in owners:
            place = place.setdefault(owner, {})
        place[name] = line
    return "\n".join([*lines, *_block(tree, "")]) + "\n"


UNCUT: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def _block(tree: Tree, indent: str) -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Line):
            yield from _leaf(key, value, indent)
        elif value:
            yield f"{indent}{key}:"
            yield from _block(value, indent + "  ")


def _leaf(key: str, line: Line, indent: str) -> Iterator[str]:
    """A key with its value; its comment behind it, or above where that would be too wide."""
    value = line.value
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        yield f"{indent}{key}:" + (f"  # {line.said}" if line.said else "")
        yield from (f"{indent}  - {flow(item)}" for item in value)
        return
    text = f"{indent}{key}: {flow(value)}"
    if line.said and len(text) + len(line.said) + 4 > WIDTH:
        above = f"{indent}# "
        yield from textwrap.wrap(line.said, WIDTH, initial_indent=above, subsequent_indent=above, **UNCUT)
        yield text
    else:
        yield f"{text}  # {line.said}" if line.said else text


def flow(value: Any) -> str:
    """A value on one line.

    >>> flow(1e-6), flow([1, "a"]), flow(None), flow("no")
    ('1.0e-06', '[1, a]', 'null', "'no'")
    """
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
