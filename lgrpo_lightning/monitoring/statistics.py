"""Means over seeds, their intervals, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds and its 95 % interval, ``mean ± half`` (Student's t); NaN for fewer than two seeds."""

    mean: float
    half: float
    count: int

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        spread = "" if math.isnan(self.half) else f" ± {self.half:.3f}"
        return f"{self.mean:.3f}{spread}"


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of the values that are no NaN.

    >>> str(estimate([1.0, 2.0, 3.0])), str(estimate([1.0])), str(estimate([]))
    ('2.000 ± 2.484', '1.000', '–')
    """
    from scipy.stats import t

    there = np.asarray([v for v in values if not math.isnan(v)], dtype=float)
    count, half = len(there), math.nan
    if count > 1:
        half = float(t.ppf(0.975, count - 1)) * float(there.std(ddof=1)) / math.sqrt(count)
    return Estimate(mean=float(there.mean()) if count else math.nan, half=half, count=count)


def find_first(values: Sequence[float], level: float) -> int | None:
    """The place of the first value at ``level`` or above; None where there is none.

    >>> find_first([0.0, 0.5, 0.4, 0.9], 0.5), find_first([0.0], 0.5)
    (1, None)
    """
    return next((i for i, value in enumerate(values) if value >= level), None)
