"""One page about a run, several runs, or a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas
from markupsafe import Markup

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.monitoring.charts import draw_chart, inline_svg
from lgrpo_lightning.monitoring.diagnosis import Finding, diagnose
from lgrpo_lightning.monitoring.pages import render_page
from lgrpo_lightning.monitoring.recorded_group import RecordedGroup, read_group
from lgrpo_lightning.monitoring.recorded_run import RecordedRun
from lgrpo_lightning.rollouts.metric_series import Series, describe_changes, find_validation_metrics
from lgrpo_lightning.rollouts.names import CONFIG, ENVIRONMENT, format_duration, show_path
from lgrpo_lightning.rollouts.reading import mask_yaml, skip_if_damaged
from lgrpo_lightning.rollouts.rollout_rows import select_over_rewards

CURVES: tuple[tuple[str, str], ...] = (
    ("reward", "reward"),
    ("entropy", "nats per token"),
    ("completions/mean_length", "tokens"),
    ("completions/clipped_ratio", "share"),
    ("frac_reward_zero_std", "share of groups"),
    ("tree/path_depth", "steps"),
    ("tree/intermediate_proportion", "share of tokens"),
    ("grad_norm", "norm"),
    ("kl", "nats per token"),
    ("learning_rate", "rate"),
    ("time/step", "seconds"),
)
"""Metrics with a curve in the report, where they were logged, and their units."""
COMPARED = ("table.csv", "runs.csv", "curves.csv")
"""What the folder of a comparison holds."""


def is_comparison(folder: Path) -> bool:
    """Whether ``lgrpo compare`` has written it."""
    return all((folder / name).is_file() for name in COMPARED)


def report_comparison(folder: Path) -> str:
    """The page of a comparison: its table, its pictures, what tuning chose, the configurations."""
    lines = (folder / "table.md").read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    if len(rows) < 2:
        raise UserError(f"{show_path(folder / 'table.md')} holds no table: run `lgrpo compare` there again.")
    arms = sorted((folder / "arms").rglob("*.yaml"))
    return render_page(
        "comparison.html",
        title=f"Comparison {show_path(folder)}",
        head=rows[0],
        rows=rows[2:],
        legend=" ".join(line for line in lines if not line.startswith("|")).replace("`", "").strip(),
        pictures={
            name: inline_svg((folder / f"{name}.svg").read_text(encoding="utf-8", errors="replace"))
            for name in ("curves", "values", "differences", "trees", "time")
            if (folder / f"{name}.svg").is_file()
        },
        tuning=_read_records(folder / "tuning.csv"),
        configs={str(p.relative_to(folder / "arms")): _read_masked(p, set()) for p in arms},
    )


def report_runs(folders: Sequence[Path]) -> str:
    """The page of one run or several: findings, curves, trees, samples, environment, configuration."""
    runs = {show_path(folder): RecordedRun(folder) for folder in folders}
    first = next(iter(runs.values()))
    one = len(runs) == 1
    return render_page(
        "report.html",
        title=f"Run {next(iter(runs))}" if one else f"{len(runs)} runs",
        summaries={name: summarise(run) for name, run in runs.items()},
        findings={name: _diagnose(run) for name, run in runs.items()},
        curves=draw_curves(runs),
        groups=[g for run in runs.values() for g in read_groups(run)] if one else [],
        samples=read_samples(first) if one else [],
        environments={name: _read_environment(run) for name, run in runs.items()},
        configs={name: _read_masked(run.folder / CONFIG, run.damaged) for name, run in runs.items()},
    )


def draw_curves(runs: Mapping[str, RecordedRun]) -> dict[str, Markup]:
    """Metric → its curves over all runs."""
    rates = list(dict.fromkeys(name for run in runs.values() for name in find_validation_metrics(run.metrics)))
    charts: dict[str, Markup] = {}
    for metric, unit in [*((name, "share right") for name in rates), *CURVES]:
        lines: dict[str, Series] = {
            name: run.metrics[metric] for name, run in runs.items() if metric in run.metrics and run.metrics[metric][0]
        }
        if lines:
            charts[metric] = draw_chart(lines, ylabel=unit)
    return charts


def summarise(run: RecordedRun) -> dict[str, str]:
    """A run in a few lines."""
    rows = run.rollout_metrics
    estimator = run.get_option("model.advantage_estimator.class_path") or "LambdaGRPO"
    lines = {"estimator": str(estimator).rpartition(".")[2], "rollouts": str(len(rows))}
    if model := run.get_option("model.policy.path"):
        lines["model"] = str(model)
    lines |= describe_changes(run.metrics)
    if seconds := sum(row.get("time/step", 0.0) for row in rows):
        lines["time"] = format_duration(seconds)
    return lines


def read_groups(run: RecordedRun) -> list[RecordedGroup]:
    """The group with the largest updates of the first and of the last rollout."""
    groups = []
    for number in dict.fromkeys(run.rollout_numbers[:1] + run.rollout_numbers[-1:]):
        with suppress(ValueError, FileNotFoundError):  # recorded by an older version, or damaged
            groups.append(read_group(run, number))
    return groups


def read_samples(run: RecordedRun, count: int = 6) -> list[dict[str, Any]]:
    """Completions of the last rollout, from the best to the worst reward."""
    if not run.rollout_numbers:
        return []
    columns = ["prompt_uid", "member", "prompt", "completion", "reward", "advantage", "length", "finish_reason"]
    try:
        table = run.read_rollouts(columns, only=run.rollout_numbers[-1])
    except FileNotFoundError:  # damaged
        return []
    return select_over_rewards(list_rows(table), count)


def _diagnose(run: RecordedRun) -> list[Finding] | str:
    try:
        return diagnose(run)
    except (ValueError, FileNotFoundError) as error:
        return str(error)


def _read_records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    table = pandas.DataFrame()
    with skip_if_damaged(path, set()):
        table = pandas.read_csv(path)
    return list_rows(table.astype(object).fillna(""))


def list_rows(table: pandas.DataFrame) -> list[dict[str, Any]]:
    """A table as rows by column."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _read_masked(path: Path, damaged: set[Path]) -> str:
    with skip_if_damaged(path, damaged):
        return mask_yaml(path.read_text(encoding="utf-8")) if path.exists() else ""
    return ""


def _read_environment(run: RecordedRun) -> dict[str, Any]:
    with run.reading(ENVIRONMENT) as path:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    return {}
