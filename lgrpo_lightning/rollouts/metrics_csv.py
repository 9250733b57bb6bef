"""``metrics.csv``: every logged number of a run in one file."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars as metrics_to_scalars
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

from lgrpo_lightning.distributed.lightning_internals import read_batch_metrics
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.metric_series import read_complete_rows
from lgrpo_lightning.rollouts.names import METRICS, set_aside, show_path
from lgrpo_lightning.rollouts.whole_files import explain_if_unwritable, make_folder, whole_file


class MetricsCSV(Logger):
    """Writes what is logged while fitting to ``<dir>/metrics.csv``: one row per log call, on disk at once.

    A row has ``step``, ``epoch`` and the metrics; what was not logged then is empty. A metric that is
    logged for the first time later becomes a new column. On resume the rows from the first newly logged
    step on are dropped, as they are logged again. A fresh run keeps an older run's file as
    ``metrics.old-<n>.csv``. ``validate``, ``test`` and ``predict`` leave the file alone.

    Its name and version are empty, so that as the first logger it makes Lightning's own ``ModelCheckpoint``
    write to ``<default_root_dir>/checkpoints``.

    Args:
        dir: Where to write. None: the trainer's ``default_root_dir``, which ``GRPOModule`` passes on.
    """

    def __init__(self, dir: str | None = None) -> None:
        super().__init__()
        self.dir = dir
        self._trainer: Trainer | None = None
        self._early: dict[str, str] | None = None  # a row that Lightning is about to log, and is in the file
        self._names: list[str] = []  # the columns; none before the first row of this run

    @property
    def name(self) -> str:
        """Empty: the folder is the run's."""
        return ""

    @property
    def version(self) -> str:
        """Empty: one run, one folder."""
        return ""

    @property
    def save_dir(self) -> str | None:
        """The folder of ``metrics.csv``, or None where it is the trainer's and not known yet."""
        return self.dir

    @property
    def path(self) -> Path:
        """The file.

        Raises:
            ValueError: The logger has no folder.
        """
        if self.dir is None:
            raise UserError(
                "MetricsCSV does not know where to write: pass dir=…, or fit a GRPOModule, which tells it "
                "the trainer's default_root_dir."
            )
        return Path(self.dir) / METRICS

    def attach(self, trainer: Trainer) -> None:
        """Store the folder of the run, whether it is a fit, and whether it resumes."""
        self._trainer = trainer
        self.dir = self.dir or trainer.default_root_dir

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration of a run is in its ``config.yaml``."""

    @rank_zero_only  # type: ignore[untyped-decorator,unused-ignore]
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row."""
        if self._trainer is not None and self._trainer.state.fn != TrainerFn.FITTING:
            return
        row = {
            "step": step or 0,
            "epoch": "" if self._trainer is None else self._trainer.current_epoch,
            **metrics,
        }
        if self._names and not self._is_mine():
            self._begin_anew()
        early, self._early = self._early, None
        now = {name: str(value) for name, value in row.items()}  # NaN equals nothing, its text itself
        if now == early:
            return
        if early is not None and early.items() <= now.items():  # more of the same rollout was logged since
            self._rewrite(self._names, self._read_rows()[:-1])
        if not self._names:
            self._begin_file(row)
        if new := [name for name in row if name not in self._names]:
            self._rewrite([*self._names, *new], self._read_rows())
        with (
            explain_if_unwritable(self.path),
            self.path.open("a", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            csv.DictWriter(file, self._names, restval="").writerow(row)

    def _begin_file(self, first: dict[str, Any]) -> None:
        """Keep the rows of before the run's ``first``, or set all aside with their file."""
        make_folder(self.path.parent)
        rows = self._read_rows()
        resumed = self._trainer is None or self._trainer.ckpt_path is not None
        kept = [row for row in rows if _is_earlier(row, first)] if resumed else []
        if rows and not kept:
            rank_zero_info(f"The metrics of an older run are kept in {show_path(set_aside(self.path))}.")
        self._rewrite(list(kept[0]) if kept else ["step", "epoch"], kept)

    def _is_mine(self) -> bool:
        """Whether the file still begins with this run's columns."""
        try:
            with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
                there = next(csv.reader(file), [])
        except (OSError, csv.Error):
            return False
        return there[:1] == self._names[:1] and len(there) == len(self._names)

    def _begin_anew(self) -> None:
        """Somebody removed or replaced the file: what stands there is no file of this run."""
        kept = f" What stood there is kept as {show_path(set_aside(self.path))}." if self.path.exists() else ""
        rank_zero_warn(
            f"{show_path(self.path)} was removed or replaced while the run goes on: it begins anew.{kept} The rows "
            "before are missing."
        )
        self._rewrite(self._names, [])
        self._early = None

    def _read_rows(self) -> list[dict[str, str]]:
        return [row for row in read_complete_rows(self.path)[0] if row.get("step")]

    def _rewrite(self, names: list[str], rows: list[dict[str, str]]) -> None:
        """Replace the file, at once, by one with these columns and rows."""
        with (
            whole_file(self.path) as hidden,
            hidden.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(rows)
        self._names = names


def _is_earlier(row: dict[str, str], first: dict[str, Any]) -> bool:
    """Whether a row in the file is from before ``first``.

    At the same step it is if it holds other metrics (a validation, say), or belongs to an earlier rollout,
    after which no optimizer step was made.
    """
    if (step := int(float(row["step"]))) != first["step"]:
        return bool(step < first["step"])
    if not any(row.get(name) for name in first if name not in ("step", "epoch")):
        return True
    return bool(row.get("rollout")) and float(row["rollout"]) < first.get("rollout", 0)


def log_before_checkpoint(trainer: Trainer) -> None:
    """Have the rollout's row in ``metrics.csv`` before the checkpoint that counts it: Lightning logs afterwards."""
    if not trainer.is_global_zero or "step" not in (found := read_batch_metrics(trainer)):
        return
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            metrics = metrics_to_scalars(found)
            step = int(metrics.pop("step"))
            logger.log_metrics(metrics, step)
            row = {"step": step, "epoch": trainer.current_epoch, **metrics}
            logger._early = {name: str(value) for name, value in row.items()}


def writes_metrics(trainer: Trainer) -> bool:
    """Whether the run has a ``metrics.csv`` of its own."""
    return any(isinstance(logger, MetricsCSV) for logger in trainer.loggers)
