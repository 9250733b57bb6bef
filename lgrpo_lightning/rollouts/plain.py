"""Any value as text or JSON, so that what a run records can always be written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from lgrpo_lightning.types import Prompt

LONGEST = 10_000
"""Bits from which on an integer is not written: Python refuses to turn longer ones into text."""
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""What the text of an object has that is another one in every process."""


def clean(text: str) -> str:
    r"""``text`` without halves of surrogate pairs, which no file takes.

    >>> clean("a\ud800b")
    'a\\ud800b'
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def to_json(value: Any) -> str:
    """Any value as JSON text; null where it holds itself.

    >>> to_json({"x": float("nan"), 1: {2}, "b": b"yes"})
    '{"x": null, "1": [2], "b": "yes"}'
    """
    try:
        return json.dumps(to_plain(value), ensure_ascii=False)
    except RecursionError:
        return "null"


def to_plain(value: Any) -> Any:
    """``value`` of the types that JSON has; numbers that are not finite are null, other objects their text."""
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
    if isinstance(value, Mapping):
        return _convert_mapping(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    return _convert_array(value)


def _convert_mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    """A mapping, its keys as text; of two that are the same text the second gets its type beside it."""
    out: dict[str, Any] = {}
    for key, item in value.items():
        name = _to_text(key)
        out[f"{name} ({type(key).__name__})" if name in out else name] = to_plain(item)
    return out


def _convert_array(value: Any) -> Any:
    """Arrays of numpy and torch as lists; anything else as its text."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if isinstance(value, type) or not hasattr(value, "tolist") or kind in ("m", "M"):
        return _to_text(value)
    try:
        items = value.tolist()
    except Exception:  # a tensor without values, or in a form that has no list
        return _to_text(value)
    return to_plain(items) if type(items) is not type(value) else to_plain(float(value))


def _to_text(value: Any) -> str:
    """``str(value)``; of an object that fails at that, its type."""
    try:
        return clean(str(value))
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _list_content(prompt: Prompt) -> list[Any]:
    images = [[image.digest for image in prompt.images]] if prompt.images else []
    return [prompt.text, dict(prompt.columns), *images]


def digest_prompts(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Digests of the prompts with their columns: ``content`` whatever their order, ``order`` as they stand."""
    rows = [sha256(ADDRESS.sub("", to_json(_list_content(p))).encode()).digest() for p in prompts]
    return {
        name: sha256(b"".join(given)).hexdigest()[:16] for name, given in (("content", sorted(rows)), ("order", rows))
    }
