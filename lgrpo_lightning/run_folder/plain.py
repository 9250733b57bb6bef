"""Any value as text or JSON, so that what a run records can always be written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

DEEPEST = 32
"""Levels of nesting after which a value is cut off."""
LONGEST = 10_000
"""Bits from which on an integer is not written: Python refuses to turn longer ones into text."""


def clean(text: str) -> str:
    r"""``text`` without halves of surrogate pairs, which no file takes.

    >>> clean("a\ud800b")
    'a\\ud800b'
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_json(value: Any) -> str:
    """Any value as JSON text.

    >>> as_json({"x": float("nan"), 1: {2}, "b": b"yes"})
    '{"x": null, "1": [2], "b": "yes"}'
    """
    return json.dumps(plain(value), ensure_ascii=False)


def plain(value: Any, within: tuple[int, ...] = ()) -> Any:
    """``value`` of the types that JSON has; numbers that are not finite are null, other objects their text.

    Args:
        within: The objects around it, by id: one that holds itself is cut off.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int):
        return int(value) if value.bit_length() < LONGEST else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    if id(value) in within or len(within) >= DEEPEST:
        return "…"
    inside = (*within, id(value))
    if isinstance(value, Mapping):
        return _object(value, inside)
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, inside) for item in value]
    return _array(value, inside)


def _object(value: Mapping[Any, Any], inside: tuple[int, ...]) -> dict[str, Any]:
    """A mapping, its keys as text; of two that are the same text the second gets its type beside it."""
    out: dict[str, Any] = {}
    for key, item in value.items():
        name = clean(_text(key))
        out[f"{name} ({type(key).__name__})" if name in out else name] = plain(item, inside)
    return out


def _array(value: Any, inside: tuple[int, ...]) -> Any:
    """Arrays of numpy and torch as lists; anything else as its text."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if isinstance(value, type) or not hasattr(value, "tolist") or kind in ("m", "M"):
        return clean(_text(value))
    try:
        items = value.tolist()
    except Exception:  # a tensor without values, or in a form that has no list
        return clean(_text(value))
    return plain(items, inside) if type(items) is not type(value) else plain(float(value))


def _text(value: Any) -> str:
    """``str(value)``; of an object that fails at that, its type."""
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__}>"
