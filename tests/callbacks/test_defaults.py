from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lgrpo_lightning.callbacks import (
    LastCheckpoint,
    RewardProgressBar,
    complete_trainer,
    make_default_callbacks,
)
from lgrpo_lightning.rollouts.metrics_csv import MetricsCSV
from tests.callbacks.stub import StubModule, fit, trainer


def kinds(running: Any) -> list[type]:
    return [type(c) for c in running.callbacks]


def test_every_default_is_added_once(tmp_path: Path) -> None:
    module = fit(tmp_path)
    module.trainer.fit_loop.max_epochs = 2
    module.trainer.fit(module)
    assert sorted(t.__name__ for t in kinds(module.trainer)) == sorted(
        type(c).__name__ for c in make_default_callbacks()
    )


def test_asking_twice_changes_nothing(tmp_path: Path) -> None:
    running = trainer(tmp_path)
    complete_trainer(running)
    before = list(running.callbacks)
    complete_trainer(running)
    assert running.callbacks == before
    assert kinds(running) == [RewardProgressBar, LastCheckpoint]


def test_a_users_checkpoint_stays_and_lands_in_the_runs_folder(tmp_path: Path) -> None:
    best = ModelCheckpoint(monitor="val/accuracy", mode="max", filename="best")
    module = fit(tmp_path, best, limit_val_batches=1)
    assert best in module.trainer.callbacks
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert module.trainer.checkpoint_callback is best
    assert best.best_model_path.endswith("best.ckpt")


def test_last_is_the_newest_of_both(tmp_path: Path) -> None:
    best = ModelCheckpoint(monitor="val/accuracy", mode="max", save_last=True)
    fit(tmp_path, best, limit_val_batches=1, limit_train_batches=2)
    resumed = fit(
        tmp_path,
        ModelCheckpoint(monitor="val/accuracy", mode="max", save_last=True),
        limit_val_batches=1,
        ckpt_path="last",
        max_epochs=2,
        limit_train_batches=2,
    )
    assert resumed.seen == [2, 3]
    assert resumed.rollout_index == 4


@pytest.mark.parametrize("bar", [RichProgressBar(leave=True), TQDMProgressBar(refresh_rate=7)], ids=["rich", "tqdm"])
def test_a_users_bar_stays(tmp_path: Path, bar: Callback) -> None:
    module = fit(tmp_path, bar)
    assert bar in module.trainer.callbacks
    assert RewardProgressBar not in kinds(module.trainer)


def test_what_is_switched_off_stays_off(tmp_path: Path) -> None:
    module = fit(tmp_path, enable_progress_bar=False, enable_checkpointing=False, logger=False)
    assert not {RewardProgressBar, LastCheckpoint} & set(kinds(module.trainer))
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "rollouts", "environment.json"}


def test_metrics_csv_comes_beside_other_loggers(tmp_path: Path) -> None:
    module = fit(tmp_path, logger=[CSVLogger(tmp_path / "csv")])
    assert [type(logger) for logger in module.trainer.loggers] == [MetricsCSV, CSVLogger]
    assert (tmp_path / "metrics.csv").exists()
    module = fit(tmp_path / "b")
    assert [type(logger) for logger in module.trainer.loggers] == [MetricsCSV, TensorBoardLogger]


def test_validate_and_predict_leave_the_run_alone(tmp_path: Path) -> None:
    fit(tmp_path, limit_val_batches=1)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and "lightning_logs" not in str(p)}
    running = trainer(tmp_path, limit_val_batches=1)
    complete_trainer(running)
    running.validate(StubModule(), ckpt_path="last")
    running.predict(StubModule(), ckpt_path="last", return_predictions=False)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert not list(tmp_path.rglob("*old-*"))


def test_a_remote_folder_is_refused(tmp_path: Path) -> None:
    running = trainer(tmp_path)
    running._default_root_dir = "s3://bucket/run"
    with pytest.raises(ValueError, match="set a local path"):
        complete_trainer(running)


@pytest.mark.slow
def test_two_ranks_write_one_run(tmp_path: Path) -> None:
    import pandas as pd

    options: dict[str, Any] = {
        "strategy": "ddp_spawn",
        "devices": 2,
        "limit_train_batches": 2,
        "logger": [MetricsCSV()],
    }
    fit(tmp_path, **options)
    assert sorted(p.name for p in (tmp_path / "rollouts").iterdir()) == [
        f"rollout-{i:06d}-rank-{r:03d}.parquet" for i in range(2) for r in range(2)
    ]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    trainer(tmp_path, strategy="ddp_spawn", devices=2).predict(StubModule(), return_predictions=False)
    frame = pd.read_parquet(tmp_path / "predictions.parquet")
    assert frame["prompt_uid"].drop_duplicates().tolist() == ["p0r0", "p0r1", "p1r0", "p1r1"]
