"""Reading ``metrics.csv`` back: what the plot and the summary of a run are made of."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path

Series = tuple[list[int], list[float]]
"""Steps and values of one metric."""


def metric_series(path: Path) -> dict[str, Series]:
    """Every metric of the file with the steps and values at which it was logged; NaN is left out.

    Of several values at one step the last counts, so that a validation repeated on resume is not drawn twice.
    """
    values: dict[str, dict[int, float]] = {}
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if name not in ("step", "epoch") and text and not math.isnan(value := float(text)):
                    values.setdefault(name, {})[int(float(row["step"]))] = value
    return {name: (sorted(points), [points[s] for s in sorted(points)]) for name, points in values.items()}


def validation_metrics(names: Iterable[str]) -> list[str]:
    """The success rates of validation, accuracy first, then avg@k: over all sets, else of each.

    >>> validation_metrics(["loss", "val/avg@k", "val/pass@k", "val/hard/accuracy", "val/accuracy"])
    ['val/accuracy', 'val/avg@k']
    """
    val = sorted(name for name in names if name.startswith("val/"))
    rates = [n for n in val if n.endswith("accuracy")] + [n for n in val if "avg@" in n]
    return [n for n in rates if n.count("/") == 1] or rates
