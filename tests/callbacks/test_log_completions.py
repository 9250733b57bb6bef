"""Completions in loggers, read back from what each package stored without a network."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lgrpo_lightning.callbacks import LastCheckpoint, LogCompletions
from tests.callbacks.stub import FailureError, StubModule, fit
from tests.docs.markdown import ROOT, blocks
from tests.several import Fork

ROLLOUTS = (0, 2, 4)
"""What is logged of five rollouts, every second."""
os.environ |= {
    "DO_NOT_TRACK": "true",
    "WANDB_SILENT": "true",
    "COMET_START_ONLINE": "false",
    "COMET_LOGGING_CONSOLE": "ERROR",
}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a package has: its tables by rollout, as text; its trees; names of its files."""

    tables: dict[int, str]
    trees: int
    files: set[str]


def make_wandb(root: Path) -> Logger:
    os.environ["WANDB_DATA_DIR"] = os.environ["WANDB_CACHE_DIR"] = str(root / "data")
    return WandbLogger(project="p", save_dir=root, offline=True, id="same")


def read_wandb(root: Path, logger: Any) -> Stored:
    import wandb

    wandb.finish()
    files = [path for path in (root / "wandb").rglob("*") if path.is_file()]
    tables = [json.loads(p.read_text()) for p in files if p.name.endswith(".table.json")]
    assert all(table["columns"][1:4] == ["prompt", "completion", "reward"] for table in tables)
    staged = [p.read_bytes() for p in (root / "data").rglob("staging/*")]  # copies of the files of artifacts
    return Stored(
        tables=collect([(table["data"][0][0], json.dumps(table["data"])) for table in tables]),
        trees=sum(p.suffix == ".html" and "media" in p.parts for p in files),
        files={"report.html"} if (root / "report.html").read_bytes() in staged else set(),
    )


def make_mlflow(root: Path) -> Logger:
    return MLFlowLogger(tracking_uri=f"sqlite:///{root}/mlflow.db", artifact_location=str(root / "artifacts"))


def read_mlflow(root: Path, logger: Any) -> Stored:
    client = logger.experiment
    table = client.load_table(logger.experiment_id, "completions-000.json", [logger.run_id])
    return Stored(
        tables={int(n): rows.to_json() for n, rows in table.groupby("rollout")} if len(table) == 9 else {},
        trees=len(client.list_artifacts(logger.run_id, "trees")),
        files={item.path for item in client.list_artifacts(logger.run_id)},
    )


def make_comet(root: Path) -> Logger:
    none = dict.fromkeys(("log_code", "log_git_metadata", "log_git_patch", "log_env_details", "log_graph"), False)
    return CometLogger(project="p", offline_directory=str(root / "comet"), **none)


def read_comet(root: Path, logger: Any) -> Stored:
    logger.experiment.end()
    archive = zipfile.ZipFile(next((root / "comet").glob("*.zip")))
    lines = [json.loads(line)["payload"] for line in archive.read("messages.json").splitlines()]
    names = [line["additional_params"]["fileName"] for line in lines if "fileName" in line.get("additional_params", {})]
    held = {archive.read(name).decode() for name in archive.namelist()}  # it archives a table's text twice
    tables = sorted(text for text in held if text.startswith("rollout,prompt,completion,reward"))
    logged = sorted(name for name in names if name.startswith("completions/"))
    assert logged == [f"completions/rollout-{rollout:06d}.csv" for rollout in ROLLOUTS]
    return Stored(
        tables=collect([(int(text.splitlines()[1].split(",")[0]), text) for text in tables]),
        trees=sum(name.startswith("trees/") for name in names),
        files=set(names),
    )


def make_trackio(root: Path) -> Logger:
    page = ROOT / "docs" / "loggers.md"
    code = next(block.text for block in blocks(page, "python") if block.title == "trackio_logger.py")
    (root / "trackio_logger.py").write_text(code)
    logger: Logger = runpy.run_path(str(root / "trackio_logger.py"))["TrackioLogger"]("p", run=root.parent.name)
    return logger


def read_trackio(root: Path, logger: Any) -> Stored:
    from trackio.sqlite_storage import SQLiteStorage  # the package has no other reader

    logs = SQLiteStorage.get_logs("p", logger.version)
    tables = [log["completions"]["_value"] for log in logs if "completions" in log]
    return Stored(
        tables=collect([(rows[0]["rollout"], json.dumps(rows)) for rows in tables]),
        trees=sum("tree" in log for log in logs),
        files={"report.html" for a in SQLiteStorage.get_artifacts("p") if a["name"] == "report"},
    )


def make_tensorboard(root: Path) -> Logger:
    return TensorBoardLogger(root, version=0)


def read_tensorboard(root: Path, logger: Any) -> Stored:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(logger.log_dir)
    events.Reload()
    cards = events.Tensors("completions/text_summary")
    assert [card.step for card in cards] == [2 * (n + 1) for n in ROLLOUTS]  # as the metrics of the same rollouts
    return Stored(
        tables=dict(zip(ROLLOUTS, (card.tensor_proto.string_val[0].decode() for card in cards), strict=True)),
        trees=len(events.Tensors("tree/text_summary")),
        files={"report.html"},  # it holds no files
    )


def collect(tables: list[tuple[int, str]]) -> dict[int, str]:
    assert len(tables) == len(dict(tables)), "a rollout was logged twice"
    return dict(tables)


def installed(name: str, package: str) -> Any:
    missing = importlib.util.find_spec(package) is None
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"{package} is not installed (extra loggers)"))


EACH = [
    "tensorboard",
    *(installed(*names) for names in (("wandb", "wandb"), ("mlflow", "sqlalchemy"), ("comet", "comet_ml"))),
    installed("trackio", "trackio"),
]
MAKE: dict[str, Callable[[Path], Logger]] = {
    n: globals()[f"make_{n}"] for n in ("tensorboard", "wandb", "mlflow", "comet", "trackio")
}
READ: dict[str, Callable[[Path, Any], Stored]] = {n: globals()[f"read_{n}"] for n in MAKE}


@pytest.mark.parametrize("name", EACH)
def test_a_package_has_each_rollout_once_though_the_run_was_killed(name: str, tmp_path: Path) -> None:
    """Rollout 2 was logged, then the update of rollout 3 failed; the checkpoint is that after rollout 1."""
    logger = MAKE[name](tmp_path)
    options = {"logger": logger, "limit_val_batches": 0}
    saved = LastCheckpoint(every_n_rollouts=2, save_on_exception=False)
    with pytest.raises(FailureError):
        fit(tmp_path, LogCompletions(2), saved, module=StubModule(fail=(3, "update")), **options)
    fit(tmp_path, LogCompletions(2), LastCheckpoint(), ckpt_path="last", **options)
    stored = READ[name](tmp_path, logger)
    assert tuple(sorted(stored.tables)) == ROLLOUTS
    for rollout, text in stored.tables.items():
        assert f"say p{rollout}r0" in text
        assert text.count("1 2 3") == 1
    assert stored.trees == len(ROLLOUTS)
    assert "report.html" in stored.files
    assert "Process trees" in (tmp_path / "report.html").read_text()


def test_several_loggers_and_one_that_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loggers = [TensorBoardLogger(tmp_path, "a", 0), CSVLogger(tmp_path), TensorBoardLogger(tmp_path, "b", 0)]
    fit(tmp_path, LogCompletions(2), logger=loggers)
    assert "LogCompletions: completions go not to CSVLogger, which cannot show them." in capsys.readouterr().out
    first, second = (read_tensorboard(tmp_path, loggers[i]) for i in (0, 2))
    assert first == second


def test_without_a_logger_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, LogCompletions(2), logger=False)
    assert "LogCompletions: completions go nowhere: the run has no logger." in capsys.readouterr().out
    assert not (tmp_path / "report.html").exists()


def test_a_new_run_in_the_folder_logs_anew(tmp_path: Path) -> None:
    for _ in range(2):
        fit(tmp_path, LogCompletions(2), logger=TensorBoardLogger(tmp_path, version=0))
    events = sorted((tmp_path / "lightning_logs" / "version_0").glob("events*"))
    assert [len(read_events(file)["completions/text_summary"]) for file in events] == [3, 3]


def test_a_dry_run_logs_nothing(tmp_path: Path) -> None:
    fit(tmp_path, LogCompletions(1), fast_dev_run=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"every_n_rollouts": 0}, {"count": 0}, {"max_characters": 9}])
def test_impossible_settings(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"LogCompletions: \w+ is \d; it must be at least"):
        LogCompletions(**options)


def test_only_the_first_process_logs(tmp_path: Path) -> None:
    """It has the completions of both."""
    run = Fork(tmp_path / "log", fit_on_two, tmp_path)
    run.process.join(120)
    assert run.status() == 0, run.said()
    (file,) = (tmp_path / "lightning_logs").rglob("events*")
    for n, card in enumerate(read_events(file)["completions/text_summary"]):
        assert all(f"say p{2 * n}r{rank}" in card for rank in (0, 1))


def fit_on_two(root: Path) -> None:
    fit(root, LogCompletions(2), logger=TensorBoardLogger(root), strategy="ddp_fork", devices=2)


def read_events(file: Path) -> dict[str, list[str]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(file))
    events.Reload()
    return {
        tag: [event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
