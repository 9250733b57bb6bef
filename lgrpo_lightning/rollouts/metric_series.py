"""Reading ``metrics.csv`` back: what the plot and the summary of a run are made of."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

Series = tuple[list[int], list[float]]
"""Steps and values of one metric."""


def read_complete_rows(path: Path) -> tuple[list[dict[str, str]], bool]:
    """The rows of the file as text; whether its last line is cut off, as a kill may leave it."""
    text = path.read_bytes().decode("utf-8", errors="replace") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    return list(csv.DictReader(whole.splitlines())), len(whole) < len(text)


def read_metric_rows(path: Path) -> tuple[list[dict[str, float]], int]:
    """The rows of the file, with what was logged in each; how many lines are no rows of numbers, or cut off."""
    lines, cut_off = read_complete_rows(path)
    rows, damaged = [], int(cut_off)
    for line in lines:
        try:
            row = {name: float(text) for name, text in line.items() if text and name != "epoch"}
            int(row["step"])
            rows.append(row)
        except (TypeError, ValueError, KeyError, OverflowError):
            damaged += 1
    return rows, damaged


def build_metric_series(rows: Iterable[Mapping[str, float]]) -> dict[str, Series]:
    """Every metric with the steps and values at which it was logged; NaN is left out.

    Of several values at one step the last counts, so that a validation repeated on resume is not drawn twice.
    """
    values: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and not math.isnan(value):
                values.setdefault(name, {})[int(row["step"])] = value
    return {name: (sorted(points), [points[s] for s in sorted(points)]) for name, points in values.items()}


def find_validation_metrics(names: Iterable[str]) -> list[str]:
    """The success rates of validation, accuracy first, then avg@k: over all sets, else of each.

    >>> find_validation_metrics(["loss", "val/avg@k", "val/pass@k", "val/hard/accuracy", "val/accuracy"])
    ['val/accuracy', 'val/avg@k']
    """
    val = sorted(name for name in names if name.startswith("val/"))
    rates = [n for n in val if n.endswith("accuracy")] + [n for n in val if "avg@" in n]
    return [n for n in rates if n.count("/") == 1] or rates


def describe_changes(metrics: Mapping[str, Series]) -> dict[str, str]:
    """From what to what the reward and the success rates of validation went.

    >>> describe_changes({"reward": ([1, 2, 3, 4], [0.0, 0.5, 0.5, 1.0]), "val/accuracy": ([0], [0.25])})
    {'reward': '0.250 -> 0.750   (means of the first and last 2 rollouts)', 'val/accuracy': '0.250'}
    """
    changes = {}
    if values := metrics.get("reward", ([], []))[1]:
        n = max(1, min(10, len(values) // 2))
        over = f"   (means of the first and last {n} rollouts)" if n > 1 else ""
        changes["reward"] = f"{sum(values[:n]) / n:.3f} -> {sum(values[-n:]) / n:.3f}{over}"
    for name in find_validation_metrics(metrics):
        values = metrics[name][1]
        changes[name] = " -> ".join(f"{value:.3f}" for value in (values[:1] + values[1:][-1:]))
    return changes


def compute_running_mean(values: list[float], radius: int) -> list[float]:
    """The mean of each value and up to ``radius`` neighbours on either side.

    >>> compute_running_mean([1.0, 2.0, 6.0, 4.0], 1)
    [1.5, 3.0, 4.0, 5.0]
    """
    windows = [values[max(0, i - radius) : i + radius + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
