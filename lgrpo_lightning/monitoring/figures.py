"""The pictures of a comparison: curves with bands, values with intervals, tree statistics, time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas

from lgrpo_lightning.monitoring.charts import style_axes
from lgrpo_lightning.monitoring.results import TIMES, Measure
from lgrpo_lightning.rollouts.whole_files import whole_file

COLOURS = ("#555555", "#2b6cb0", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#a6761d", "#66a61e")
"""The first arm's is grey: what others are compared with."""
GREY = "#555555"
NAMES = {
    "tree/path_depth": "path depth (steps)",
    "tree/intermediate_proportion": "shared tokens (share)",
    "frac_reward_zero_std": "flat groups (share)",
}


def draw_all(curves: pandas.DataFrame, arms: pandas.DataFrame, measure: Measure, folder: Path) -> list[str]:
    """Draw every picture as PNG and SVG into ``folder``; their names without suffix."""
    pictures = {
        "curves": draw_curves(curves, {measure.metric: measure.name}),
        "values": draw_values(arms, measure),
        "differences": draw_differences(arms, measure),
        "trees": draw_curves(curves, NAMES),
        "time": draw_time(arms),
    }
    if arms["difference"].isna().all():
        del pictures["differences"]
    for name, figure in pictures.items():
        for suffix in ("png", "svg"):
            with whole_file(folder / f"{name}.{suffix}") as hidden:
                figure.savefig(hidden, format=suffix)
    return list(pictures)


def draw_curves(curves: pandas.DataFrame, names: Mapping[str, str]) -> Any:
    """A panel for each setting (row by row) and metric: each arm's mean over seeds with its 95 % band.

    Args:
        names: Metric → what the picture calls it; those that were not logged are left out.
    """
    settings = list(dict.fromkeys(curves["setting"]))
    names = {metric: name for metric, name in names.items() if metric in set(curves["metric"])}
    places = list(product(settings, names))
    figure, panels = _add_panels(len(places), columns=len(names) if len(names) > 1 else None)
    for axes, (setting, metric) in zip(panels, places, strict=True):
        _draw_bands(axes, curves[(curves["setting"] == setting) & (curves["metric"] == metric)])
        axes.set_title(setting, fontsize=9, color=GREY)
        axes.set_xlabel("rollout")
        axes.set_ylabel(names[metric])
        if len(names) > 1:
            axes.set_ylim(bottom=0)
        else:
            axes.sharey(panels[0])
    _add_legend(figure, panels[0])
    return figure


def draw_values(arms: pandas.DataFrame, measure: Measure) -> Any:
    """Each arm's value with its 95 % interval, setting by setting."""
    settings, own_arms = list(dict.fromkeys(arms["setting"])), _split_arms(arms)
    figure, (axes,) = _add_panels(1, width=max(6.4, 1.1 * len(settings) + 2.5))
    width = 0.8 / len(own_arms)
    for i, (name, colour, rows) in enumerate(own_arms):
        own = rows.set_index("setting").reindex(settings)
        at = [s + (i - (len(own_arms) - 1) / 2) * width for s in range(len(settings))]
        half, (low, high) = own["interval"].fillna(0.0), find_bounds(arms["mean"])
        ends = [half.clip(upper=own["mean"] - low), half.clip(upper=high - own["mean"])]
        axes.errorbar(at, own["mean"], yerr=ends, fmt="o", color=colour, capsize=3, markersize=5, label=name)
    axes.set_xticks(range(len(settings)), [s.replace(", ", "\n") for s in settings], fontsize=8)
    axes.set_xlim(-0.6, len(settings) - 0.4)
    axes.set_ylabel(measure.name)
    _add_legend(figure, axes)
    return figure


def draw_differences(arms: pandas.DataFrame, measure: Measure) -> Any:
    """Each arm's paired difference to the first arm of its setting, with its 95 % interval, and a line at 0."""
    first, rows = arms["arm"].iloc[0], arms[arms["difference"].notna()]
    labels = [f"{arm}\n{setting}".strip() for arm, setting in zip(rows["arm"], rows["setting"], strict=True)]
    figure, (axes,) = _add_panels(1, height=1.6 + 0.5 * len(labels))
    half = rows["difference_interval"].fillna(0.0)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.errorbar(rows["difference"], range(len(labels)), xerr=half, fmt="o", color=COLOURS[1], capsize=3)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(measure.name)
    axes.set_title(f"difference to {first}, paired over seeds", fontsize=9, color=GREY)
    return figure


def draw_time(arms: pandas.DataFrame) -> Any:
    """Seconds of a rollout, by what they go into."""
    labels = [f"{row.arm}  {row.setting}".strip() for row in arms.itertuples()]
    figure, (axes,) = _add_panels(1, height=max(2.4, 0.28 * len(labels) + 1.2))
    left = pandas.Series(0.0, index=arms.index)
    for name, colour in zip([n for n in TIMES if n in arms], COLOURS[1:], strict=False):
        axes.barh(range(len(labels)), arms[name], left=left, color=colour, label=name.rpartition("/")[2])
        left = left + arms[name]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds a rollout")
    _add_legend(figure, axes)
    return figure


def _draw_bands(axes: Any, curves: pandas.DataFrame) -> None:
    arms = _split_arms(curves)
    for name, colour, own in arms:
        half = own["interval"].fillna(0.0)
        marks = {"marker": "o", "markersize": 4} if len(own) < 15 else {}
        axes.plot(own["rollout"], own["mean"], color=colour, linewidth=1.8, label=name, **marks)
        low, high = find_bounds(own["mean"])
        axes.fill_between(
            own["rollout"],
            (own["mean"] - half).clip(low, high),
            (own["mean"] + half).clip(low, high),
            color=colour,
            alpha=0.18 if len(arms) < 4 else 0.07,
            linewidth=0,
        )


def find_bounds(means: pandas.Series) -> tuple[float, float]:
    """The range that bands stay in: of a share from 0 to 1 where every mean is one, else no limit.

    >>> [find_bounds(pandas.Series(means)) for means in ([0.0, 0.9], [3.0, 200.0], [-1.0, 1.0])]
    [(0.0, 1.0), (0.0, inf), (-inf, inf)]
    """
    low = 0.0 if (means.dropna() >= 0).all() else -math.inf
    return low, 1.0 if low == 0 and (means.dropna() <= 1).all() else math.inf


def _split_arms(table: pandas.DataFrame) -> list[tuple[str, str, pandas.DataFrame]]:
    """(name, colour, rows) of each arm."""
    names = enumerate(dict.fromkeys(table["arm"]))
    return [(name, COLOURS[i % len(COLOURS)], table[table["arm"] == name]) for i, name in names]


def _add_panels(
    count: int, *, columns: int | None = None, width: float | None = None, height: float | None = None
) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = columns or min(count, 3)
    lines = math.ceil(count / columns)
    size = (width or max(6.4, 3.2 * columns), (height or (3.6 if lines == 1 else 2.5 * lines)) + 0.4)
    figure = Figure(figsize=size, dpi=160, layout="constrained")
    panels = [figure.add_subplot(lines, columns, i + 1) for i in range(count)]
    for axes in panels:
        style_axes(axes, GREY, labelsize=8)
        axes.xaxis.label.set_color(GREY)
        axes.yaxis.label.set_color(GREY)
    return figure, panels


def _add_legend(figure: Any, axes: Any) -> None:
    """The names above the picture, as many in a row as fit."""
    handles, labels = axes.get_legend_handles_labels()
    inches = 0.6 + 0.085 * max(map(len, labels))  # of one name at this size
    fitting = max(1, min(len(labels), int(figure.get_figwidth() / inches)))
    figure.legend(
        handles, labels, loc="outside upper left", ncols=fitting, frameon=False, fontsize=9, columnspacing=1.2
    )
