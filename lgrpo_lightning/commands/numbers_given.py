"""Numbers of a configuration that no option can mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lgrpo_lightning.commands.explanations import place_of
from lgrpo_lightning.commands.written import Entry
from lgrpo_lightning.errors import UserError

KNOWN = ("lgrpo_lightning.", "torch.", "lightning.")
"""Packages whose classes take no such number; one of somebody else's may."""
SEEDS = 2**32


def check_numbers(options: Mapping[str, Any], written: Sequence[Entry]) -> None:
    """Refuse NaN, infinity, whole numbers of more than 64 bits, and seeds that numpy does not take.

    Args:
        options: The whole configuration of a command.
        written: What the user wrote.

    Raises:
        ValueError: With key and place.
    """
    for key, value in _numbers(options, ""):
        shown = wanted = ""
        if isinstance(value, float) and not math.isfinite(value):
            shown, wanted = str(value), "a finite number"
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            shown, wanted = f"a number of {value.bit_length()} bits", "a whole number of at most 64 bits"
        elif key in ("seed_everything", "data.seed") and not 0 <= value < SEEDS:
            shown, wanted = str(value), f"from 0 to {SEEDS - 1}"
        if wanted:
            raise UserError(f"{place_of(key, written)}{key} is {shown}; it must be {wanted}.")


def _numbers(value: Any, key: str) -> Iterator[tuple[str, int | float]]:
    """(dotted key without ``init_args``, number) pairs, but of classes and functions of other packages."""
    if isinstance(value, Mapping):
        if not str(value.get("class_path", KNOWN[0])).startswith(KNOWN):
            return
        for name, inner in value.items():
            if not str(name).endswith("kwargs"):
                yield from _numbers(inner, key if name == "init_args" else f"{key}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _numbers(inner, f"{key}[{i}]")
    elif isinstance(value, int | float):
        yield key, value
