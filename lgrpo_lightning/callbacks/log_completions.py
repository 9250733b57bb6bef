"""Completions in the run's loggers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from lgrpo_lightning.callbacks.rollout_callback import count_rollouts, is_dry_run
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.errors import require
from lgrpo_lightning.monitoring.completion_sheet import build_sheet
from lgrpo_lightning.monitoring.logger_tables import LoggerWriter, find_writer
from lgrpo_lightning.monitoring.recorded_run import RecordedRun
from lgrpo_lightning.monitoring.report import report_runs
from lgrpo_lightning.rollouts.metrics_csv import MetricsCSV
from lgrpo_lightning.rollouts.names import LOGGED, REPORT
from lgrpo_lightning.rollouts.whole_files import write_whole


class LogCompletions(Callback):
    """Shows completions and a process tree in Weights & Biases, MLflow, TensorBoard, Comet or Trackio.

    Every ``every_n_rollouts`` each logger of the run gets a table of completions, from the best to the worst reward,
    and the tree of the group with the largest updates. When fitting is done, the run's ``report.html`` is written, and
    given to the loggers that hold files. Other loggers get nothing, which one line says.

    Completions are read from ``rollouts/``: those of all processes whose files this machine sees. A resumed run does
    not log a rollout again under the same name and version of a logger; ``logged_completions.json`` has the last one.

    Args:
        every_n_rollouts: How often, in rollouts.
        count: Completions in a table, spread evenly over the rewards of the rollout.
        max_characters: Longest text of a prompt, completion or step; of longer ones the middle is left out.
    """

    def __init__(self, every_n_rollouts: int = 10, count: int = 16, max_characters: int = 4000) -> None:
        require(
            "LogCompletions: ",
            locals(),
            (every_n_rollouts >= 1, "every_n_rollouts", "at least 1"),
            (count >= 1, "count", "at least 1"),
            (max_characters >= 10, "max_characters", "at least 10"),
        )
        self.every_n_rollouts, self.count, self.max_characters = every_n_rollouts, count, max_characters
        self._writers: list[tuple[Logger, LoggerWriter]] = []
        self._logged: dict[str, int] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the loggers that take completions, and what they have from before the run was resumed."""
        self._writers, self._logged = [], {}
        if not trainer.is_global_zero or is_dry_run(trainer):
            return
        others = []
        for logger in trainer.loggers:
            if writer := find_writer(logger):
                self._writers.append((logger, writer))
            elif not isinstance(logger, MetricsCSV):
                others.append(type(logger).__name__)
        if others or not self._writers:
            what = f"not to {', '.join(others)}, which cannot show them" if others else "nowhere: the run has no logger"
            say(trainer, f"LogCompletions: completions go {what}.")
        path = Path(trainer.default_root_dir) / LOGGED
        if count_rollouts(pl_module) and path.exists():
            self._logged = json.loads(path.read_text(encoding="utf-8"))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        rollout = count_rollouts(pl_module) - 1
        due = [(logger, writer) for logger, writer in self._writers if self._logged.get(_name(logger), -1) < rollout]
        if rollout % self.every_n_rollouts or not due:
            return
        root = Path(trainer.default_root_dir)
        sheet = build_sheet(
            RecordedRun(root), rollout, step=trainer.global_step, count=self.count, longest=self.max_characters
        )
        for logger, writer in due:
            writer.log_sheet(logger, sheet, rollout // self.every_n_rollouts)
            self._logged[_name(logger)] = rollout
            write_whole(root / LOGGED, json.dumps(self._logged, indent=2) + "\n")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the report and hand it to the loggers, before Lightning closes them."""
        if stage != "fit" or not self._writers:
            return
        path = Path(trainer.default_root_dir) / REPORT
        write_whole(path, report_runs([path.parent]))
        for logger, writer in self._writers:
            if writer.log_file:
                writer.log_file(logger, path)


def _name(logger: Logger) -> str:
    return f"{type(logger).__name__} {logger.name} {logger.version}"
