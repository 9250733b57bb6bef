"""Checks of the options of losses."""

from __future__ import annotations

import math
from typing import get_args

from lgrpo_lightning.errors import require
from lgrpo_lightning.functional.losses import Normalizer


def check_normalizer(owner: str, normalizer: Normalizer | None, own: Normalizer) -> Normalizer:
    """``normalizer``, or the loss's ``own`` if it is null.

    Raises:
        ValueError: There is no such one.
    """
    if normalizer is None:
        return own
    possible = ", ".join(map(repr, get_args(Normalizer)))
    known = normalizer in get_args(Normalizer)
    require(f"{owner}: ", locals(), (known, "normalizer", f"one of {possible}, or null"))
    return normalizer


def check_number(owner: str, name: str, value: float, *, low: float = 0.0, high: float = math.inf) -> float:
    """``value``.

    Raises:
        ValueError: It is outside of the bounds, or no number.
    """
    bounds = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
    require(f"{owner}: ", {name: value}, (low <= value <= high, name, bounds))
    return value


def positive(owner: str, name: str, value: float) -> float:
    """``value``.

    Raises:
        ValueError: It is not above 0.
    """
    require(f"{owner}: ", {name: value}, (value > 0, name, "above 0"))
    return value
