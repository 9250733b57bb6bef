"""A run as its folder tells it: configuration, metrics, rollouts. Nothing of it is computed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet

from lgrpo_lightning.errors import NotFoundError, UserError
from lgrpo_lightning.rollouts.metric_series import Series, build_metric_series, read_metric_rows
from lgrpo_lightning.rollouts.names import CONFIG, METRICS, ROLLOUT_FILE, ROLLOUTS, show_path
from lgrpo_lightning.rollouts.reading import read_config, skip_if_damaged

KEYS = {"rollout", "prompt_uid", "member", "prompt"}
"""Columns without which a row is of no rollout."""


class RecordedRun:
    """Reads the folder of a run (``trainer.default_root_dir``); a damaged file is left out, and named.

    Args:
        bare: Take a folder without metrics and rollouts, too.

    Raises:
        FileNotFoundError: It is no folder of a run; the message says what is missing, and where runs are.
    """

    def __init__(self, folder: Path, *, bare: bool = False) -> None:
        self.folder, self.damaged = folder, set[Path]()
        if not bare and not (folder / METRICS).is_file() and not (folder / ROLLOUTS).is_dir():
            runs = sorted(p.parent for depth in ("*", "*/*") for p in folder.glob(f"{depth}/{METRICS}"))
            below = f" Below it are {', '.join(map(show_path, runs[:5]))}." if runs else ""
            what = f"has neither {METRICS} nor {ROLLOUTS}/" if folder.is_dir() else "is no folder"
            raise NotFoundError(f"{folder} {what}. RUN is the folder that trainer.default_root_dir named.{below}")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The complete configuration; empty where the run was started in Python."""
        with self.reading(CONFIG) as path:
            return read_config(path) if path.exists() else {}
        return {}

    @cached_property
    def metrics(self) -> dict[str, Series]:
        """Every metric over optimizer steps."""
        return build_metric_series(self._rows)

    @cached_property
    def rollout_metrics(self) -> list[dict[str, float]]:
        """The metrics of each rollout, in order; what was not measured is left out."""
        return [row for row in self._rows if "rollout" in row]

    @cached_property
    def _rows(self) -> list[dict[str, float]]:
        rows: list[dict[str, float]] = []
        with self.reading(METRICS) as path:
            rows, damaged = read_metric_rows(path)
            if damaged:
                raise UserError(f"{damaged} of its lines, cut off or without numbers")
        return rows

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """The path of a file of the run; where what is done with it fails, that is said once, and it is left out."""
        with skip_if_damaged(self.folder / name, self.damaged):
            yield self.folder / name

    def read_rollouts(self, columns: Sequence[str] | None = None, *, only: int | None = None) -> pandas.DataFrame:
        """One row a completion."""
        chosen = None if columns is None else list(columns)
        tables = []
        for _, name in self._files if only is None else self._find_files(f"rollout-{only:06d}-rank-*.parquet"):
            with self.reading(name) as path:
                tables.append(pandas.read_parquet(path, columns=chosen))
        if not tables:
            numbers = self.rollout_numbers
            there = f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
            what = "rollouts" if only is None else f"rollout {only}; there are {there}"
            raise NotFoundError(f"{show_path(self.folder / ROLLOUTS)} has no {what}.")
        table = pandas.concat(tables, ignore_index=True)
        order = [c for c in ("rollout", "prompt_uid", "member") if c in table]
        return table.sort_values(order, ignore_index=True, kind="stable") if order else table

    @cached_property
    def rollout_numbers(self) -> list[int]:
        """Of the rollouts on disk."""
        return sorted({number for number, _ in self._files})

    @cached_property
    def _files(self) -> list[tuple[int, str]]:
        """(number of the rollout, name) of the files in which rollouts are."""
        return self._find_files("*.parquet")

    def _find_files(self, pattern: str) -> list[tuple[int, str]]:
        files = []
        for file in sorted((self.folder / ROLLOUTS).glob(pattern)):
            with self.reading(f"{ROLLOUTS}/{file.name}") as path:
                if not (named := ROLLOUT_FILE.fullmatch(file.name)):
                    raise UserError("a run gives no file this name")
                if missing := KEYS - set(pyarrow.parquet.read_schema(path).names):
                    raise UserError(f"it lacks {', '.join(sorted(missing))}")
                files.append((int(named[1]), f"{ROLLOUTS}/{file.name}"))
        return files

    def get_option(self, key: str) -> Any:
        """The value of a key of the configuration, ``init_args`` included; None where there is none."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value
