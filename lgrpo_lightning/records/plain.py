"""Any value as text or JSON, so that what a run records can always be written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

DEEPEST = 32
"""Levels of nesting after which a value is cut off: it may hold itself."""


def clean(text: str) -> str:
    r"""``text`` without halves of surrogate pairs, which no file takes.

    >>> clean("a\ud800b")
    'a\\ud800b'
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_json(value: Any) -> str:
    """A JSON text of any value.

    >>> as_json({"x": float("nan"), 1: {2}, "b": b"yes"})
    '{"x": null, "1": [2], "b": "yes"}'
    """
    return json.dumps(plain(value), ensure_ascii=False)


def plain(value: Any, depth: int = 0) -> Any:
    """``value`` of the types that JSON has; numbers that are not finite are null, other objects their text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    if depth >= DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {clean(_text(key)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth + 1) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch
        return plain(value.tolist(), depth + 1)
    return clean(_text(value))


def _text(value: Any) -> str:
    """``str(value)``; of an object that fails at that, its type."""
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__}>"
