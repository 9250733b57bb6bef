"""What loggers show of a rollout: a table of completions, and the tree of one group."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import Any

from lgrpo_lightning.monitoring.pages import render_page
from lgrpo_lightning.monitoring.recorded_group import RecordedGroup, StepNode, build_group
from lgrpo_lightning.monitoring.recorded_run import RecordedRun
from lgrpo_lightning.monitoring.report import list_rows
from lgrpo_lightning.monitoring.tree_text import write_header, write_steps
from lgrpo_lightning.monitoring.visible import make_visible, shorten
from lgrpo_lightning.rollouts.rollout_rows import select_over_rewards

WIDTH = 100
"""Characters of a line of the tree, and of the text of a step in it."""


@dataclass(frozen=True, kw_only=True)
class CompletionSheet:
    """A rollout as loggers show it.

    Attributes:
        rollout: Its number.
        step: Optimizer steps of the run after its update, as for its metrics.
        columns, rows: The table, with texts, numbers and None.
        tree: The process tree of a group, as lines of text.
        page: The same tree as an HTML page that loads nothing.
    """

    rollout: int
    step: int
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    tree: str
    page: str


def build_sheet(run: RecordedRun, rollout: int, *, step: int, count: int, longest: int) -> CompletionSheet:
    """The completions of a recorded rollout, from the best to the worst, and the tree of the group with the largest
    updates.

    Args:
        count: Rows of the table, spread evenly over the rewards.
        longest: Characters of a text; longer ones lose their middle.
    """
    table = run.read_rollouts(only=rollout)
    group = _shorten_group(build_group(run, rollout, table), longest)
    rows = [_build_row(row, longest) for row in select_over_rewards(list_rows(table), count)]
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    return CompletionSheet(
        rollout=rollout,
        step=step,
        columns=columns,
        rows=tuple(tuple(row.get(name) for name in columns) for row in rows),
        tree=_write_tree(group),
        page=render_page("tree.html", title=f"Process tree of rollout {rollout}", group=group),
    )


def _build_row(row: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """Column → value. Of an episode each turn begins with its role."""
    turns = json.loads(row["turns"]) if isinstance(row["turns"], str) else []
    ends = [0, *row["text_ends"]]
    spans = [f"[{turn['role']}]\n{row['completion'][ends[turn['start']] : ends[turn['end']]]}" for turn in turns]
    texts = {"prompt": row["prompt"], "completion": "\n".join(spans) or row["completion"]}
    return {
        "rollout": row["rollout"],
        **{name: shorten(make_visible(text), longest) for name, text in texts.items()},
        **{name: _round(value) for name, value in row.items() if name == "reward" or name.startswith("reward/")},
        "advantage": _round(row["advantage"]),
        "|λ|": _round(row["set_size_mean"]),
        **{name: row[name] for name in ("shared_tokens", "length", "finish_reason")},
        "turns": sum(turn["role"] == "assistant" for turn in turns) or 1,
        **{name: row[name] for name in ("prompt_uid", "member")},
    }


def _round(value: float) -> float | None:
    """Four digits, as rewards are recorded in float32; None for what is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _write_tree(group: RecordedGroup) -> str:
    """The tree in lines that fit into a window."""
    header = [part for line in write_header(group) for part in wrap(line.plain, WIDTH)]
    return "\n".join([*header, *(line.plain for line in write_steps(group, most=WIDTH))])


def _shorten_group(group: RecordedGroup, longest: int) -> RecordedGroup:
    def cut(steps: tuple[StepNode, ...]) -> tuple[StepNode, ...]:
        return tuple(replace(s, text=shorten(s.text, longest), children=cut(s.children)) for s in steps)

    return replace(group, prompt=shorten(group.prompt, longest), roots=cut(group.roots))
