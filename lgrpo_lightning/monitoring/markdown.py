"""The table of a comparison as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from lgrpo_lightning.monitoring.results import TREE, Estimate, Measure


def write_markdown(table: pandas.DataFrame, measure: Measure) -> str:
    """The rows of ``arm_table`` with a sentence that says what they are."""
    cells = [_fill_row(row, measure, str(table["arm"].iloc[0])) for row in table.to_dict("records")]
    names = [name for name in cells[0] if any(row[name] for row in cells)]
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in cells)]
    return "\n".join([*map(_join_cells, lines), "", *describe_differences(table, measure), write_legend(measure)])


def describe_differences(table: pandas.DataFrame, measure: Measure) -> list[str]:
    """A sentence an arm: whether it is ahead of the first arm of its setting, or not told apart from it."""
    first = table["arm"].iloc[0]
    return [
        f"{row['arm']}{f' ({setting})' if (setting := row['setting']) else ''}: "
        f"{describe_difference(row['difference'], row['difference_interval'], first)} in {measure.name}.\n"
        for row in table.to_dict("records")
        if row["arm"] != first
    ]


def describe_difference(mean: float, half: float, first: str) -> str:
    """What a paired difference and its 95 % interval say.

    >>> describe_difference(0.2, 0.1, "GRPO"), describe_difference(-0.2, 0.3, "GRPO")
    ('ahead of GRPO by 0.200', 'not told apart from GRPO')
    """
    if math.isnan(mean) or math.isnan(half):
        return f"one seed does not tell it apart from {first}"
    if abs(mean) <= half:
        return f"not told apart from {first}"
    return f"{'ahead of' if mean > 0 else 'behind'} {first} by {abs(mean):.3f}"


def write_legend(measure: Measure) -> str:
    """What the columns are."""
    span = f"the last {measure.last} rollouts" if measure.last else "the last tenth of the rollouts"
    return (
        f"{measure.name}: mean of {span}, over seeds, ± the 95 % interval (Student's t). Difference: paired over "
        f"seeds, with its 95 % interval. Rollouts to {measure.share:.0%}: median over the seeds that come so far (how "
        "many do) of when the running mean has made that share of the way from the start to the peak of the first "
        "arm's mean curve; tokens: sampled until then. Path depth (process sets between root and leaf), shared tokens "
        "(share of tokens with |λ| above 1) and flat groups (share of groups with equal rewards): means over the run.\n"
    )


def _fill_row(row: Mapping[Any, Any], measure: Measure, first: str) -> dict[str, str]:
    """Heading → text of one arm's row."""
    reached, seeds = row["reached"], row["seeds"]
    return {
        "setting": row["setting"],
        "arm": row["arm"],
        "tuned": row["tuned"],
        "seeds": str(seeds),
        measure.name: str(Estimate(mean=row["mean"], half=row["interval"], count=seeds)),
        f"difference to {first}": _format_difference(row["difference"], row["difference_interval"]),
        f"rollouts to {measure.share:.0%}": f"{row['rollouts_to_level']:.0f} ({reached}/{seeds})"
        if reached
        else f"– (0/{seeds})",
        "tokens to it": _shorten(row["tokens_to_level"]),
        **{name: f"{row[column]:.2f}" for column, name in TREE.items() if column in row},
        "seconds": f"{row['seconds']:.0f}",
    }


def _join_cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _format_difference(mean: float, half: float) -> str:
    if pandas.isna(mean):
        return ""
    return f"{mean:+.3f}" + ("" if pandas.isna(half) else f" ± {half:.3f}")


def _shorten(count: float) -> str:
    if pandas.isna(count):
        return "–"
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.1f} k" if count >= 1e3 else f"{count:.0f}"
