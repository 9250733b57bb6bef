"""A damaged file of a run is left out and named, by every command that looks at runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas
import pytest

from lgrpo_lightning import cli
from lgrpo_lightning.monitoring.plan import Arm, Run
from lgrpo_lightning.monitoring.results import read_metrics
from tests.monitoring.recorded import record

FILES = ("metrics.csv", "config.yaml", "environment.json", "rollouts/rollout-000000-rank-000.parquet")
FOREIGN = ("rollouts/rollout-abc.parquet", "rollouts/notes.parquet", "rollouts/more.txt", "rollouts/more")
GARBAGE = bytes(range(256)) * 8


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: Mapping[str, Callable[[Path], object]] = {
    "cut off": _cut,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(GARBAGE),
    "other text": lambda path: path.write_text("a: [1,\n'b\n"),
    "a folder": _folder,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rollouts."""
    run = record(tmp_path_factory.mktemp("whole") / "run", [(["12", "13"], [1.0, 0.0])])
    kept = pandas.read_csv(run / "metrics.csv")[["step", "reward", "rollout"]]  # few curves to draw
    kept.to_csv(run / "metrics.csv", index=False)
    first = run / "rollouts" / "rollout-000000-rank-000.parquet"
    shutil.copy(first, first.with_name("rollout-000001-rank-000.parquet"))
    (run / "environment.json").write_text('{"python": "3.11"}')
    return run


@pytest.mark.parametrize("command", ["tree", "doctor", pytest.param("report", marks=pytest.mark.slow)])
def test_a_damaged_file_is_left_out(
    command: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in FILES:
        for name, damage in DAMAGE.items():
            run = tmp_path / name / file.replace("/", "-")
            shutil.copytree(whole, run)
            damage(run / file)
            status = cli.main([command, str(run)])
            said = capsys.readouterr()
            assert "Traceback" not in said.err, (file, name, said.err)
            assert status == 0 or (command == "doctor" and status <= 2), (file, name, said.err)
            reads = {"tree": FILES[1::2], "doctor": FILES[:2] + FILES[3:], "report": FILES}[command]
            told = said.err.count("Left out: ") == 1 and Path(file).name in said.err
            assert told or file not in reads or name in ("empty", "cut off"), (file, name, said.err)
            assert len(said.err.splitlines()) <= 2, said.err


@pytest.mark.parametrize("command", ["tree", "doctor", "report"])
def test_foreign_files_are_left_out(
    command: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    for name in FOREIGN:
        (run / name).write_bytes(GARBAGE)
    assert cli.main([command, str(run)]) <= (1 if command == "doctor" else 0)
    said = capsys.readouterr().err
    left = [Path(line.split(": ")[1]).name for line in said.splitlines()]
    assert left == ["notes.parquet", "rollout-abc.parquet"]


def test_a_damaged_run_is_left_out_of_a_comparison(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arm = Arm(config=str(whole / "config.yaml"), name="GRPO", choices=())
    config = tmp_path / "arm.yaml"
    config.write_text("model: {group_size: 2}\ndata: {prompts_per_step: 1}\n")
    runs = [Run(arm=arm, seed=i, folder=tmp_path / name, config=config) for i, name in enumerate(["whole", *DAMAGE])]
    for run in runs:
        shutil.copytree(whole, run.folder)
        if run.seed:
            DAMAGE[run.folder.name](run.folder / "metrics.csv")
    assert list(read_metrics(runs)) == [runs[0].folder]
    assert capsys.readouterr().err.count("Left out: ") == len(DAMAGE)
    with pytest.raises(ValueError, match="No run has metrics that can be read"):
        read_metrics(runs[1:])
