"""What came of the runs: one row a run, one row an arm, and curves over the training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.monitoring.plan import Run, name_setting
from lgrpo_lightning.monitoring.statistics import estimate, find_first
from lgrpo_lightning.rollouts.metric_series import read_metric_rows
from lgrpo_lightning.rollouts.names import METRICS, show_path
from lgrpo_lightning.rollouts.reading import read_config, skip_if_damaged

TREE = ("tree/path_depth", "tree/intermediate_proportion", "frac_reward_zero_std")
"""The statistics of process trees that every comparison shows."""
AVERAGE = "val/avg@k"
TIMES = ("time/sample", "time/reward", "time/train")
"""Seconds of a rollout by what they went into."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is measured of a run.

    Attributes:
        metric: A column of ``metrics.csv``; empty: what ``settle_metric`` takes.
        label: What tables and pictures call it; empty: as it is called.
        last: Rollouts at the end of a run whose mean is the run's value; 0: a tenth of them.
        share: How far up the way from the start to the first arm's peak "reached" is, from 0 to 1.
    """

    metric: str = ""
    label: str = ""
    last: int = 0
    share: float = 0.9

    @property
    def name(self) -> str:
        """What tables and pictures call it."""
        return self.label or self.metric


def read_rollouts(run: Run) -> pandas.DataFrame:
    """The rows of a run's metrics, with ``tokens``: how many completion tokens were sampled up to there."""
    rows, damaged = read_metric_rows(run.folder / METRICS)
    if damaged or not rows:
        raise UserError(f"{damaged} of its lines are cut off or without numbers" if rows else "it holds no rows")
    table = pandas.DataFrame(rows)
    table["done"] = table["rollout"].add(1).ffill().fillna(0) if "rollout" in table else range(1, len(table) + 1)
    lengths = table.get("completions/mean_length", pandas.Series(math.nan, table.index))
    table["tokens"] = (lengths * count_completions(run)).cumsum().ffill()
    return table


def count_completions(run: Run) -> int:
    """Completions of a rollout, by the run's configuration."""
    config = read_config(run.config)
    return int(config["model"]["group_size"]) * int(config["data"]["prompts_per_step"])


def get_series(table: pandas.DataFrame, metric: str) -> pandas.Series:
    """A metric over rollouts, without what was not measured.

    Raises:
        ValueError: The runs do not log it, with what they log; or one has no value of it.
    """
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


def read_metrics(runs: Sequence[Run]) -> dict[Path, pandas.DataFrame]:
    """A run's folder → its rollouts' metrics; a run whose file is damaged is left out.

    Raises:
        ValueError: All are.
    """
    tables = {}
    for run in runs:
        with skip_if_damaged(run.folder / METRICS, set()):
            tables[run.folder] = read_rollouts(run)
    if not tables:
        raise UserError(f"No run has metrics that can be read; remove {show_path(runs[0].folder)} to repeat it.")
    return tables


def tabulate_runs(runs: Sequence[Run], tables: Mapping[Path, pandas.DataFrame], measure: Measure) -> pandas.DataFrame:
    """One row a run: arm, setting, seed, what tuning chose, the value, when the level was reached, means, seconds.

    Args:
        tables: Those of ``read_metrics``.
    """
    curves = {folder: get_series(table, measure.metric) for folder, table in tables.items()}
    levels = _find_levels(runs, curves, measure)
    return pandas.DataFrame(
        [
            _summarise_run(run, tables[run.folder], curves[run.folder], levels[name_setting(run.arm.setting)], measure)
            for run in runs
        ]
    )


def _summarise_run(
    run: Run, table: pandas.DataFrame, curve: pandas.Series, level: float, measure: Measure
) -> dict[str, object]:
    total = float(table["done"].max())
    late = curve[curve.index > total - (measure.last or max(1, round(total / 10)))]
    at = find_first(list(smooth(curve)), level)
    reached = math.nan if at is None else float(curve.index[at])
    tokens = table.loc[table["done"] <= reached, "tokens"].max() if at is not None else math.nan
    return {
        "arm": run.arm.name,
        "setting": name_setting(run.arm.setting),
        "tuned": name_setting(run.arm.tuned),
        "seed": run.seed,
        "value": float(late.mean() if len(late) else curve.iloc[-1]),
        "rollouts_to_level": reached,
        "tokens_to_level": float(tokens),
        "level": level,
        **{name: float(table[name].mean()) for name in (*TREE, *TIMES) if name in table},
        "seconds": float(table["time/step"].sum()),
    }


def _find_levels(runs: Sequence[Run], curves: Mapping[Path, pandas.Series], measure: Measure) -> dict[str, float]:
    """Setting → the value from which a run has reached the level."""
    levels: dict[str, float] = {}
    for setting in dict.fromkeys(run.arm.setting for run in runs):
        here = [run for run in runs if run.arm.setting == setting]
        first = [smooth(curves[run.folder]) for run in here if run.arm.name == here[0].arm.name]
        peak = float(pandas.concat(first, axis=1).mean(axis=1).max())
        start = float(pandas.Series([smooth(curves[run.folder]).iloc[0] for run in here]).mean())
        levels[name_setting(setting)] = start + measure.share * (peak - start)
    return levels


def tabulate_arms(table: pandas.DataFrame) -> pandas.DataFrame:
    """One row an arm and setting: means over seeds, 95 % intervals, and the paired difference to the setting's first.

    Args:
        table: That of ``tabulate_runs``.
    """
    rows = []
    for setting, there in table.groupby("setting", sort=False):
        first = there[there["arm"] == there["arm"].iloc[0]].set_index("seed")["value"]
        for arm, own in there.groupby("arm", sort=False):
            value = estimate(list(own["value"]))
            paired = (own.set_index("seed")["value"] - first).dropna()
            difference = estimate(list(paired)) if arm != there["arm"].iloc[0] else estimate([])
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
    runs: Sequence[Run], tables: Mapping[Path, pandas.DataFrame], metrics: Sequence[str]
) -> pandas.DataFrame:
    """The mean over seeds and its 95 % interval at every rollout: arm, setting, metric, rollout, mean, interval."""
    parts = []
    for arm in dict.fromkeys(run.arm for run in runs):
        own = [tables[run.folder] for run in runs if run.arm == arm]
        for metric in metrics:
            curves = [smooth(get_series(table, metric)) for table in own if metric in table]
            if not curves:
                continue
            both = pandas.concat(curves, axis=1)
            points = [estimate(list(values)) for values in both.to_numpy()]
            parts.append(
                pandas.DataFrame(
                    {
                        "setting": name_setting(arm.setting),
                        "arm": arm.name,
                        "metric": metric,
                        "rollout": both.index.astype(int),
                        "mean": [p.mean for p in points],
                        "interval": [p.half for p in points],
                    }
                )
            )
    return pandas.concat(parts, ignore_index=True)
