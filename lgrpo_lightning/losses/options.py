"""Checks of the options of losses."""

from __future__ import annotations

import math
from typing import get_args

from lgrpo_lightning.functional.losses import Normalizer


def checked_normalizer(owner: str, normalizer: Normalizer | None, own: Normalizer) -> Normalizer:
    """``normalizer``, or the loss's ``own`` where it is null.

    Raises:
        ValueError: There is no such one.
    """
    if normalizer is None:
        return own
    if normalizer not in get_args(Normalizer):
        possible = ", ".join(map(repr, get_args(Normalizer)))
        raise ValueError(f"{owner}: normalizer is {normalizer!r}; it must be one of {possible}, or null.")
    return normalizer


def checked(owner: str, name: str, value: float, *, low: float = 0.0, high: float = math.inf) -> float:
    """``value``.

    Raises:
        ValueError: It is outside of the bounds, or no number.
    """
    if not low <= value <= high:
        bounds = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise ValueError(f"{owner}: {name} is {value!r}; it must be {bounds}.")
    return value


def positive(owner: str, name: str, value: float) -> float:
    """``value``.

    Raises:
        ValueError: It is not above 0.
    """
    if not value > 0:
        raise ValueError(f"{owner}: {name} is {value!r}; it must be above 0.")
    return value
