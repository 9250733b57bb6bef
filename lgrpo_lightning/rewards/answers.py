"""The right answers that a data column holds, whatever its type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from lgrpo_lightning.errors import UserError

KEYS = ("ground_truth", "answer", "answers", "target", "solution", "final_answer", "value", "label", "text")
"""Keys under which an object holds its answer, the first of them that is there."""


def read_answers(value: Any) -> tuple[Any, ...]:
    """The answers of a column, any of which is right: text, numbers, true and false. Empty cells hold none.

    A list holds several; an object holds its answer under one of ``KEYS``, or as its only entry.

    Raises:
        ValueError: The value is something else; the message says what.

    >>> [read_answers(v) for v in ("4", [4, "four"], {"ground_truth": "4", "source": None}, None)]
    [('4',), (4, 'four'), ('4',), ()]
    """
    return tuple(_read(value))


def _read(value: Any) -> Iterator[Any]:
    if str(getattr(value, "dtype", "")).removeprefix("torch.") in ("float16", "float32"):
        value = np.asarray(value).astype(str).astype(float)  # the number that was written, 0.1, not the nearest binary
    if hasattr(value, "tolist"):  # numpy and torch
        value = value.tolist()
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return  # NaN is what a table has where a cell is empty
    if isinstance(value, str | bool | int | float | Decimal | Fraction):
        yield value
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _read(item)
    elif isinstance(value, Mapping):
        yield from _read(_read_object(value))
    else:
        raise UserError(f"{value!r}, a {type(value).__name__}, which is neither text nor a number")


def _read_object(value: Mapping[Any, Any]) -> Any:
    there = {key: item for key, item in value.items() if item is not None}
    for key in KEYS:
        if key in there:
            return there[key]
    if len(there) == 1:
        return next(iter(there.values()))
    raise UserError(
        f"an object with the entries {', '.join(map(str, there)) or 'none'}, of which none is called {', '.join(KEYS)}"
    )
