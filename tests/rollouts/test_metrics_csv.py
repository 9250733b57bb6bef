import csv
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lgrpo_lightning.callbacks import LastCheckpoint
from lgrpo_lightning.rollouts.metric_series import build_metric_series, read_metric_rows
from lgrpo_lightning.rollouts.metrics_csv import MetricsCSV
from tests.callbacks.stub import FailureError, StubModule, fit, trainer


def rows(root: Path) -> list[dict[str, str]]:
    with (root / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_per_log_call_on_disk_at_once(tmp_path: Path) -> None:
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"reward": 0.1}, 1)
    assert rows(tmp_path) == [{"step": "1", "epoch": "", "reward": "0.1"}]
    logger.log_metrics({"reward": 1 / 3, "epoch": 0}, 2)
    assert float(rows(tmp_path)[1]["reward"]) == 1 / 3


def test_a_metric_that_comes_later_is_a_new_column(tmp_path: Path) -> None:
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"reward": 0.1}, 1)
    logger.log_metrics({"val/accuracy": 0.5}, 1)
    logger.log_metrics({"reward": math.nan}, 2)
    frame = pd.read_csv(tmp_path / "metrics.csv")
    assert list(frame.columns) == ["step", "epoch", "reward", "val/accuracy"]
    assert frame["val/accuracy"].isna().tolist() == [True, False, True]
    rows, _ = read_metric_rows(tmp_path / "metrics.csv")
    assert build_metric_series(rows) == {
        "reward": ([1], [0.1]),
        "val/accuracy": ([1], [0.5]),
    }


def test_fit_logs_the_steps_and_epochs_of_the_run(tmp_path: Path) -> None:
    fit(tmp_path, limit_val_batches=1, limit_train_batches=2, max_epochs=2)
    assert [(row["step"], row["epoch"], row["reward"] != "") for row in rows(tmp_path)] == [
        ("2", "0", True),
        ("4", "0", True),
        ("4", "0", False),
        ("6", "1", True),
        ("8", "1", True),
        ("8", "1", False),
    ]


def test_resume_drops_what_is_logged_again(tmp_path: Path) -> None:
    fit(tmp_path / "whole", limit_val_batches=1, val_check_interval=2)
    with pytest.raises(FailureError):
        fit(tmp_path, module=StubModule(fail=(3, "sample")), limit_val_batches=1, val_check_interval=2)
    logger = MetricsCSV(str(tmp_path))
    logger._names = list(rows(tmp_path)[0])
    logger.log_metrics({"reward": 99.0}, 8)
    fit(tmp_path, ckpt_path="last", limit_val_batches=1, val_check_interval=2)
    assert rows(tmp_path) == rows(tmp_path / "whole")
    assert not (tmp_path / "metrics.old-1.csv").exists()


def test_same_step_other_row(tmp_path: Path) -> None:
    logger = MetricsCSV(str(tmp_path))
    for metrics, step in (
        ({"reward": 0.1, "rollout": 1}, 1),
        ({"val/accuracy": 0.5}, 1),
        ({"reward": 0.2, "rollout": 2}, 1),  # a rollout without an optimizer step
        ({"reward": 0.3, "rollout": 3}, 1),
        ({"reward": 0.4, "rollout": 4}, 2),
    ):
        logger.log_metrics(metrics, step)
    MetricsCSV(str(tmp_path)).log_metrics({"reward": 0.9, "rollout": 3}, 1)
    assert [(row["reward"], row["val/accuracy"]) for row in rows(tmp_path)] == [
        ("0.1", ""),
        ("", "0.5"),
        ("0.2", ""),
        ("0.9", ""),
    ]


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"reward": 0.1}, 1)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2,,0.")
    MetricsCSV(str(tmp_path)).log_metrics({"reward": 0.3}, 3)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "3"]


def test_a_fresh_run_keeps_the_file_of_an_older_one(tmp_path: Path) -> None:
    fit(tmp_path, limit_train_batches=3)
    fit(tmp_path, limit_train_batches=1, log_every_n_steps=1)
    assert len(rows(tmp_path)) == 1
    assert len((tmp_path / "metrics.old-1.csv").read_text().splitlines()) == 4


def test_only_fitting_is_logged(tmp_path: Path) -> None:
    fit(tmp_path)
    before = (tmp_path / "metrics.csv").read_text()
    trainer(tmp_path, limit_val_batches=1).validate(StubModule())
    assert (tmp_path / "metrics.csv").read_text() == before


def test_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pass dir="):
        MetricsCSV().log_metrics({"reward": 1.0}, 1)
    logger = MetricsCSV()
    assert (logger.name, logger.version, logger.save_dir) == ("", "", None)
    logger.log_hyperparams({"lr": 1})


def test_a_row_is_there_before_its_checkpoint_and_only_once(tmp_path: Path) -> None:
    """A kill just after the checkpoint must not lose it."""
    seen: list[int] = []

    class Last(LastCheckpoint):
        def _write(self, trainer: Any, *, wait: bool = True) -> None:
            seen.append(len((tmp_path / "metrics.csv").read_text().splitlines()) - 1)
            super()._write(trainer, wait=wait)

    fit(tmp_path, Last(every_n_rollouts=1))
    assert seen == [1, 2, 3, 4, 5]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 6
