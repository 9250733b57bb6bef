"""A run as its folder tells it: configuration, metrics, rollouts. Nothing of it is computed again."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas
import yaml

from lgrpo_lightning.records.metric_series import Series, metric_series
from lgrpo_lightning.run_folder.names import CONFIG, METRICS, ROLLOUTS, shown


class RecordedRun:
    """Reads the folder of a run (``trainer.default_root_dir``).

    Args:
        folder: It.

    Raises:
        FileNotFoundError: It is no folder of a run; the message says what is missing, and where runs are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / METRICS).is_file() and not (folder / ROLLOUTS).is_dir():
            runs = sorted(p.parent for depth in ("*", "*/*") for p in folder.glob(f"{depth}/{METRICS}"))
            below = f" Below it are {', '.join(map(shown, runs[:5]))}." if runs else ""
            what = f"has neither {METRICS} nor {ROLLOUTS}/" if folder.is_dir() else "is no folder"
            raise FileNotFoundError(
                f"{folder} {what}. RUN is the folder that trainer.default_root_dir named.{below}"
            )

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The complete configuration; empty where the run was started in Python."""
        path = self.folder / CONFIG
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def metrics(self) -> dict[str, Series]:
        """Every metric over optimizer steps."""
        return metric_series(self.folder / METRICS)

    @cached_property
    def rollout_metrics(self) -> list[dict[str, float]]:
        """The metrics of each rollout, in order; what was not measured is left out."""
        path = self.folder / METRICS
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("rollout")]
        return [{name: float(text) for name, text in row.items() if text and name != "epoch"} for row in rows]

    def rollouts(self, columns: Sequence[str] | None = None, *, only: int | None = None) -> pandas.DataFrame:
        """One row a completion.

        Args:
            columns: Which; all by default.
            only: The number of the rollout; all by default.

        Raises:
            FileNotFoundError: The run has left none.
        """
        files = sorted((self.folder / ROLLOUTS).glob("*.parquet"))
        if only is not None:
            files = [f for f in files if f.name.startswith(f"rollout-{only:06d}-")]
        if not files:
            what = "rollouts" if only is None else f"rollout {only}; there are {self._numbered()}"
            raise FileNotFoundError(f"{shown(self.folder / ROLLOUTS)} has no {what}.")
        chosen = None if columns is None else list(columns)
        table = pandas.concat([pandas.read_parquet(f, columns=chosen) for f in files], ignore_index=True)
        order = [c for c in ("rollout", "prompt_uid", "member") if c in table]
        return table.sort_values(order, ignore_index=True, kind="stable") if order else table

    @cached_property
    def rollout_numbers(self) -> list[int]:
        """Of the rollouts on disk."""
        return sorted({int(f.name.split("-")[1]) for f in (self.folder / ROLLOUTS).glob("rollout-*.parquet")})

    def _numbered(self) -> str:
        numbers = self.rollout_numbers
        return f"{numbers[0]} to {numbers[-1]}" if numbers else "none"

    def option(self, key: str) -> Any:
        """The value of a key of the configuration, ``init_args`` included; None where there is none."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value
