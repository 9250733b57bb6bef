"""Each arm's best values, found on seeds of their own."""

from __future__ import annotations

from collections.abc import Sequence

import pandas

from lgrpo_lightning.monitoring.plan import Arm, Run, name_setting
from lgrpo_lightning.monitoring.results import Measure, read_metrics, settle_metric, tabulate_runs
from lgrpo_lightning.monitoring.variations import Choice


def tabulate_tuning(runs: Sequence[Run], measure: Measure) -> pandas.DataFrame:
    """One row an arm and point of the grid: the mean of the measured value over the tuning seeds."""
    tables = read_metrics(runs)
    runs = [run for run in runs if run.folder in tables]
    table = tabulate_runs(runs, tables, settle_metric(measure, tables.values()))
    table["tuned"] = [name_setting(run.extra) for run in runs]
    keys = ["setting", "arm", "tuned"]
    return table.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()


def choose_best(runs: Sequence[Run], table: pandas.DataFrame) -> dict[Arm, tuple[Choice, ...]]:
    """Each arm's point with the best mean, the first of equals; says which, and where it lies at the grid's edge."""
    best: dict[Arm, tuple[Choice, ...]] = {}
    for arm in dict.fromkeys(run.arm for run in runs):
        points = list(dict.fromkeys(run.extra for run in runs if run.arm == arm))
        here = table[(table["arm"] == arm.name) & (table["setting"] == name_setting(arm.setting))]
        values = dict(zip(here["tuned"], here["mean"], strict=True))
        best[arm] = max(points, key=lambda point: values[name_setting(point)])
        tried = ", ".join(f"{name}: {value:.3f}" for name, value in values.items())
        edge = [c.key for i, c in enumerate(best[arm]) if _is_at_edge(c, [p[i] for p in points])]
        wider = f" {', '.join(edge)} lies at the edge of the grid: widen it." if edge else ""
        print(f"Tuned {arm.label}: {name_setting(best[arm])} ({tried}).{wider}", flush=True)
    return best


def _is_at_edge(choice: Choice, all_of_key: Sequence[Choice]) -> bool:
    """Whether a number is the smallest or largest of its key's."""
    try:
        numbers = {float(c.value) for c in all_of_key}
    except ValueError:
        return False
    return len(numbers) > 1 and float(choice.value) in (min(numbers), max(numbers))
