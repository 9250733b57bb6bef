"""What came of the runs: one row a run, one row an arm, and curves over the training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.monitoring.plan import Arm, Run, name_choices
from lgrpo_lightning.monitoring.variations import Choice
from lgrpo_lightning.rollouts.metric_series import read_metric_rows
from lgrpo_lightning.rollouts.names import METRICS, show_path
from lgrpo_lightning.rollouts.reading import read_config, skip_if_damaged

TREE = {
    "tree/path_depth": "path depth",
    "tree/intermediate_proportion": "shared tokens",
    "frac_reward_zero_std": "flat groups",
}
"""The statistics of process trees that every comparison shows, and what tables call them."""
AVERAGE = "val/avg@k"
TIMES = ("time/sample", "time/reward", "time/train")
"""Seconds of a rollout by what they went into."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is measured of a run."""

    metric: str = ""  # a column of ``metrics.csv``; empty: what ``settle_metric`` takes
    label: str = ""  # what tables and pictures call it; empty: as it is called
    last: int = 0  # rollouts at the end of a run whose mean is the run's value; 0: a tenth of them
    share: float = 0.9  # how far up the way from the start to the first arm's peak "reached" is, from 0 to 1

    @property
    def name(self) -> str:
        """What tables and pictures call it."""
        return self.label or self.metric


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds and its 95 % interval, ``mean ± half`` (Student's t); NaN for fewer than two seeds."""

    mean: float
    half: float
    count: int

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        return f"{self.mean:.3f}{'' if math.isnan(self.half) else f' ± {self.half:.3f}'}"


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of the values that are no NaN.

    >>> str(estimate([1.0, 2.0, 3.0])), str(estimate([1.0])), str(estimate([]))
    ('2.000 ± 2.484', '1.000', '–')
    """
    there = pandas.Series(values, dtype=float)
    count = int(there.count())
    return Estimate(mean=float(there.mean()), half=float(there.sem() * _find_quantile(count)), count=count)


def _find_quantile(count: Any) -> Any:
    """How many standard errors half a 95 % interval has, of ``count`` values; NaN for fewer than two."""
    from scipy.stats import t

    return t.ppf(0.975, count - 1)


def read_metrics(runs: Sequence[Run]) -> dict[Path, pandas.DataFrame]:
    """A run's folder → its rollouts' metrics; a run whose file is damaged is left out."""
    tables = {}
    for run in runs:
        with skip_if_damaged(run.folder / METRICS, set()):
            tables[run.folder] = read_rollouts(run)
    if not tables:
        raise UserError(f"No run has metrics that can be read; remove {show_path(runs[0].folder)} to repeat it.")
    return tables


def read_rollouts(run: Run) -> pandas.DataFrame:
    """The rows of a run's metrics, with ``tokens``: how many completion tokens were sampled up to there."""
    rows, damaged = read_metric_rows(run.folder / METRICS)
    if damaged or not rows:
        raise UserError(f"{damaged} of its lines are cut off or without numbers" if rows else "it holds no rows")
    table, config = pandas.DataFrame(rows), read_config(run.config)
    table["done"] = table["rollout"].add(1).ffill().fillna(0) if "rollout" in table else range(1, len(table) + 1)
    lengths = table.get("completions/mean_length", pandas.Series(math.nan, table.index))
    completions = int(config["model"]["group_size"]) * int(config["data"]["prompts_per_step"])
    table["tokens"] = (lengths * completions).cumsum().ffill()
    return table


def get_series(table: pandas.DataFrame, metric: str) -> pandas.Series:
    """A metric over rollouts, without what was not measured."""
    if metric not in table:
        known = ", ".join(c for c in table.columns if c not in ("step", "epoch", "done", "tokens"))
        raise UserError(f"--metric {metric}: the runs log no such metric. They log {known}.")
    values = table.set_index("done")[metric].dropna().groupby(level=0).last()  # a resumed run may validate twice
    if values.empty:
        raise UserError(f"--metric {metric}: a run has no value of it.")
    return values


def settle_metric(measure: Measure, tables: Iterable[pandas.DataFrame]) -> Measure:
    """``measure`` with a metric: validation's avg@k where every run has values of it, else the reward."""
    validated = all(AVERAGE in table and table[AVERAGE].notna().any() for table in tables)
    return replace(measure, metric=measure.metric or (AVERAGE if validated else "reward"))


def smooth(values: pandas.Series) -> pandas.Series:
    """The running mean over a twentieth of the run."""
    return values.rolling(max(1, len(values) // 20), min_periods=1, center=True).mean()


def tabulate_runs(runs: Sequence[Run], tables: Mapping[Path, pandas.DataFrame], measure: Measure) -> pandas.DataFrame:
    """One row a run: arm, setting, seed, what tuning chose, the value, when the level was reached, means, seconds."""
    rows = []
    for setting in dict.fromkeys(run.arm.setting for run in runs):
        here = [run for run in runs if run.arm.setting == setting]
        curves = [get_series(tables[run.folder], measure.metric) for run in here]
        smoothed = [smooth(curve) for curve in curves]
        first = [curve for run, curve in zip(here, smoothed, strict=True) if run.arm.name == here[0].arm.name]
        peak = float(pandas.concat(first, axis=1).mean(axis=1).max())
        start = float(pandas.Series([curve.iloc[0] for curve in smoothed]).mean())
        level = start + measure.share * (peak - start)
        for run, curve in zip(here, curves, strict=True):
            rows.append(_summarise_run(run, tables[run.folder], curve, level, measure))
    return pandas.DataFrame(rows)


def _summarise_run(
    run: Run, table: pandas.DataFrame, curve: pandas.Series, level: float, measure: Measure
) -> dict[str, object]:
    total = float(table["done"].max())
    late = curve[curve.index > total - (measure.last or max(1, round(total / 10)))]
    above = smooth(curve) >= level
    reached = float(above.idxmax()) if above.any() else math.nan  # type: ignore[arg-type]
    return {
        "arm": run.arm.name,
        "setting": run.arm.setting,
        "tuned": run.arm.tuned,
        "seed": run.seed,
        "value": float(late.mean() if len(late) else curve.iloc[-1]),
        "rollouts_to_level": reached,
        "tokens_to_level": float(table.loc[table["done"] <= reached, "tokens"].max()),
        "level": level,
        **{name: float(table[name].mean()) for name in (*TREE, *TIMES) if name in table},
        "seconds": float(table["time/step"].sum()),
    }


def tabulate_arms(table: pandas.DataFrame) -> pandas.DataFrame:
    """One row an arm and setting: means over seeds, 95 % intervals, the paired difference to the setting's first."""
    rows = []
    for (setting, arm), own in table.groupby(["setting", "arm"], sort=False):
        there = table[table["setting"] == setting]
        first = there[there["arm"] == there["arm"].iloc[0]]
        value = estimate(list(own["value"]))
        paired = own.set_index("seed")["value"] - first.set_index("seed")["value"]
        difference = estimate([] if arm == first["arm"].iloc[0] else list(paired))
        rows.append(
            {
                "setting": setting,
                "arm": arm,
                "tuned": own["tuned"].iloc[0],
                "seeds": value.count,
                "mean": value.mean,
                "interval": value.half,
                "difference": difference.mean,
                "difference_interval": difference.half,
                "reached": int(own["rollouts_to_level"].notna().sum()),
                "rollouts_to_level": float(own["rollouts_to_level"].median()),
                "tokens_to_level": float(own["tokens_to_level"].median()),
                "level": float(own["level"].iloc[0]),
                **{name: float(own[name].mean()) for name in (*TREE, *TIMES) if name in own},
                "seconds": float(own["seconds"].mean()),
            }
        )
    return pandas.DataFrame(rows)


def tabulate_curves(
    runs: Sequence[Run], tables: Mapping[Path, pandas.DataFrame], metrics: Iterable[str]
) -> pandas.DataFrame:
    """The mean over seeds and its 95 % interval at every rollout: arm, setting, metric, rollout, mean, interval."""
    parts = []
    for arm in dict.fromkeys(run.arm for run in runs):
        own = [tables[run.folder] for run in runs if run.arm == arm]
        for metric in metrics:
            if curves := [smooth(get_series(table, metric)) for table in own if metric in table]:
                seeds = pandas.concat(curves, axis=1)
                columns = {
                    "setting": arm.setting,
                    "arm": arm.name,
                    "metric": metric,
                    "rollout": seeds.index.astype(int),
                    "mean": seeds.mean(axis=1),
                    "interval": seeds.sem(axis=1) * _find_quantile(seeds.count(axis=1)),
                }
                parts.append(pandas.DataFrame(columns))
    return pandas.concat(parts, ignore_index=True)


def tabulate_tuning(runs: Sequence[Run], measure: Measure) -> pandas.DataFrame:
    """One row an arm and point of the grid: the mean of the measured value over the tuning seeds."""
    tables = read_metrics(runs)
    runs = [run for run in runs if run.folder in tables]
    table = tabulate_runs(runs, tables, settle_metric(measure, tables.values()))
    table["tuned"] = [name_choices(run.extra) for run in runs]
    keys = ["setting", "arm", "tuned"]
    return table.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()


def choose_best(runs: Sequence[Run], table: pandas.DataFrame) -> dict[Arm, tuple[Choice, ...]]:
    """Each arm's point with the best mean, the first of equals; says which, and where it lies at the grid's edge."""
    best: dict[Arm, tuple[Choice, ...]] = {}
    for arm in dict.fromkeys(run.arm for run in runs):
        points = list(dict.fromkeys(run.extra for run in runs if run.arm == arm))
        here = table[(table["arm"] == arm.name) & (table["setting"] == arm.setting)]
        values = dict(zip(here["tuned"], here["mean"], strict=True))
        best[arm] = max(points, key=lambda point: values[name_choices(point)])
        tried = ", ".join(f"{name}: {value:.3f}" for name, value in values.items())
        edge = [c.key for i, c in enumerate(best[arm]) if _is_at_edge(c, [p[i] for p in points])]
        wider = f" {', '.join(edge)} lies at the edge of the grid: widen it." if edge else ""
        print(f"Tuned {arm.label}: {name_choices(best[arm])} ({tried}).{wider}", flush=True)
    return best


def _is_at_edge(choice: Choice, all_of_key: Sequence[Choice]) -> bool:
    """Whether a number is the smallest or largest of its key's."""
    try:
        numbers = {float(c.value) for c in all_of_key}
    except ValueError:
        return False
    return len(numbers) > 1 and float(choice.value) in (min(numbers), max(numbers))
