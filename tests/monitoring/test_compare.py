"""``lgrpo compare``: real runs in processes; killed and started again it repeats nothing."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas
import pytest

from lgrpo_lightning import cli
from tests.docs.markdown import ROOT
from tests.monitoring.chromium import needs_chromium, opened

CONFIG = ROOT / "configs" / "paper_toy.yaml"
ARMS = "--vary=model.advantage_estimator=GRPO,LambdaGRPO"
SETTING = "--vary=model.reward_model.init_args.shared=1"
TARGET = ["--metric=rewards/BinaryTreeReward/target", "--label=target rate"]
TIMES = ("time/sample", "time/reward", "time/train", "seconds")


def words(out: Path, *more: str, steps: int = 4, seeds: str = "0-1") -> list[str]:
    common = [f"--config={CONFIG}", f"--seeds={seeds}", f"--out={out}", f"--trainer.max_steps={steps}"]
    return ["compare", *common, *TARGET, *more]


def table(out: Path, name: str = "table.csv") -> pandas.DataFrame:
    return pandas.read_csv(out / name).drop(columns=list(TIMES))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder, output) of three arms, the third of which is the first in other words, in one setting."""
    out = tmp_path_factory.mktemp("compared") / "c"
    arms = "--vary=model.advantage_estimator=GRPO,LambdaGRPO,{class_path: LambdaGRPO, init_args: {power: 0}}"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert cli.main(words(out, arms, SETTING, "--drop_checkpoints")) == 0
    return out, said.getvalue()


@pytest.mark.long
def test_arms_in_a_setting(compared: tuple[Path, str]) -> None:
    out, said = compared
    assert "[6/6] " in said
    assert "| shared=1 | GRPO |" in said
    assert "difference to GRPO" in said
    assert re.search(r"LambdaGRPO \(shared=1\): (not told apart|ahead of|behind) .*in target rate\.", said)
    runs = pandas.read_csv(out / "runs.csv")
    assert len(runs) == 6
    for row in runs.itertuples():  # every value is the mean of the last rollouts of its own run
        own = out / "runs" / row.arm.replace(" ", "_") / row.setting / f"seed-{row.seed}" / "metrics.csv"
        logged = pandas.read_csv(own)
        assert row.value == pytest.approx(logged[TARGET[0].removeprefix("--metric=")].iloc[-1])
        assert len(logged) == 4
    arms = table(out)
    assert list(arms["arm"]) == ["GRPO", "LambdaGRPO", "LambdaGRPO power=0"]
    for setting, there in runs.groupby("setting"):
        wide = there.pivot(index="seed", columns="arm", values="value")
        found = arms[(arms["setting"] == setting) & (arms["arm"] == "LambdaGRPO")].iloc[0]
        assert found["difference"] == pytest.approx((wide["LambdaGRPO"] - wide["GRPO"]).mean())
    for name in ("curves", "values", "differences", "trees", "time"):
        assert (out / f"{name}.png").stat().st_size > 5000
        assert (out / f"{name}.svg").read_text().lstrip().startswith("<?xml")


@pytest.mark.long
def test_power_0_is_grpo_and_seeds_are_paired(compared: tuple[Path, str]) -> None:
    for _, there in table(compared[0]).groupby("setting"):
        grpo, _, zero = there.to_dict("records")
        assert zero["mean"] == grpo["mean"]
        assert zero["difference"] == zero["difference_interval"] == 0


@pytest.mark.long
@needs_chromium
def test_its_report(compared: tuple[Path, str]) -> None:
    out, _ = compared
    assert cli.main(["report", str(out)]) == 0
    seen = opened(out / "report.html", width=400)
    assert (seen.requests, seen.errors, seen.scripts) == ([], [], 0)
    assert seen.overflow <= 0
    for part in ("Curves", "Trees", "difference to GRPO", "mean of the last tenth"):
        assert part in seen.text


@pytest.mark.slow
def test_a_kill_repeats_nothing(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options: dict[str, Any] = {"steps": 12, "seeds": "0"}
    assert cli.main(words(whole, ARMS, **options)) == 0
    command = [sys.executable, "-m", "lgrpo_lightning.cli", *words(cut, ARMS, "--jobs=1", **options)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    until(lambda: len(list(cut.glob("runs/*/*/finished"))) >= 1 and len(begun(cut)) >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.parent.joinpath("metrics.csv").stat().st_mtime_ns for path in cut.glob("runs/*/*/finished")}
    assert len(done) == 1
    before = {path: len(path.read_text()) for path in cut.glob("runs/*/*/log.txt") if path.parent / "finished" in done}
    assert cli.main(words(cut, ARMS, **options)) == 0
    for path, written in done.items():
        assert path.parent.joinpath("metrics.csv").stat().st_mtime_ns == written
    for path, length in before.items():
        assert len(path.read_text()) == length
    for name in ("table.csv", "runs.csv"):
        pandas.testing.assert_frame_equal(table(whole, name), table(cut, name))
    pandas.testing.assert_frame_equal(pandas.read_csv(whole / "curves.csv"), pandas.read_csv(cut / "curves.csv"))
    # more seeds: what is there is kept
    assert cli.main(words(cut, ARMS, **options | {"seeds": "0-1"})) == 0
    assert len(pandas.read_csv(cut / "runs.csv")) == 4


@pytest.mark.slow
def test_a_signal_lets_the_runs_save_their_state(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lgrpo_lightning.cli", *words(tmp_path / "c", "--jobs=2", steps=2000)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    until(lambda: len(begun(tmp_path / "c")) == 2)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "The same command goes on" in said
    assert len(list((tmp_path / "c").glob("runs/*/*/checkpoints/last.ckpt"))) == 2


def begun(out: Path) -> list[Path]:
    """Runs in the middle."""
    return [p for p in out.glob("runs/*/*/metrics.csv") if len(p.read_text().splitlines()) > 3]


def until(true: object, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_tuning_takes_the_best_of_the_grid_on_seeds_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = "--tune=model.optimizer.init_args.lr=1e-9,1e-2"
    assert cli.main(words(tmp_path / "c", ARMS, rates, "--tune_seeds=1000", steps=6, seeds="0")) == 0
    said = capsys.readouterr().out
    tuning = pandas.read_csv(tmp_path / "c" / "tuning.csv")
    assert len(tuning) == 4
    best = tuning.loc[tuning.groupby("arm", sort=False)["mean"].idxmax(), ["arm", "tuned"]]
    arms = pandas.read_csv(tmp_path / "c" / "table.csv")
    assert dict(zip(arms["arm"], arms["tuned"], strict=True)) == dict(best.itertuples(index=False))
    assert "lies at the edge of the grid: widen it" in said
    for arm, tuned in best.itertuples(index=False):
        config = (tmp_path / "c" / "runs" / arm / tuned / "seed-0" / "config.yaml").read_text()
        assert float(config.split("lr: ")[1].split()[0]) == float(tuned.split("=")[1])
    assert cli.main(["report", str(tmp_path / "c")]) == 0
    assert "Tuning" in (tmp_path / "c" / "report.html").read_text()


@pytest.mark.slow
def test_configurations_are_compared_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, shared in (("near", 2), ("far", 1)):
        text = CONFIG.read_text().replace("shared: 1", f"shared: {shared}")
        (tmp_path / f"{name}.yaml").write_text(text)
    configs = [f"--config={tmp_path / name}.yaml" for name in ("near", "far")]
    common = ["--seeds=0", f"--out={tmp_path / 'c'}", "--trainer.max_steps=4", "--drop_checkpoints"]
    assert cli.main(["compare", *configs, *common]) == 0
    assert list(pandas.read_csv(tmp_path / "c" / "table.csv")["arm"]) == ["near", "far"]
    assert not list((tmp_path / "c").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--seeds=0-"], "Seeds are '0-'"),
        (["--seeds=1,1"], "which has a number twice"),
        (["--vary=model.group_size"], "write --vary KEY=A,B"),
        (["--vary=model.group_size=4,4"], "each value is to be there once"),
        (["--vary=model.advantage_estimator=GRPO,LamdaGRPO"], "LambdaGRPO"),
        (["--share=0"], "--share is above 0"),
        (["--tune=model.group_size=4,8", "--tune_seeds=1-3"], "have [1] in common"),
        (["--trainer.logger=false"], "trainer.logger: false"),
        (["--model.group_sise=4"], "group_size"),
    ],
)
def test_refused_before_any_run(more: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words(tmp_path / "c"), *more]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "c" / "runs").exists()


@pytest.mark.long
def test_another_comparison_in_the_folder_is_refused(
    compared: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = shutil.copytree(compared[0], tmp_path / "c")
    assert cli.main(words(there, ARMS, SETTING, steps=3)) == 2
    assert "holds a comparison in which GRPO (shared=1) has another configuration" in capsys.readouterr().err


@pytest.mark.long
def test_a_metric_that_is_not_there(
    compared: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = shutil.copytree(compared[0], tmp_path / "c")
    assert cli.main([*words(there, ARMS, SETTING), "--metric=accuracy"]) == 2
    assert "--metric accuracy: the runs log no such metric. They log" in capsys.readouterr().err


@pytest.mark.long
def test_a_run_that_fails_is_shown_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = "--vary=model.reward_model.init_args.shared=1,4,2"  # no leaf has five letters
    assert cli.main(words(tmp_path / "c", ARMS, settings, seeds="0", steps=1)) == 1
    said = capsys.readouterr().out
    assert said.count("seed 0 FAILED (2); see") == 2
    assert "more than shared=4 letters" in said
    rows = pandas.read_csv(tmp_path / "c" / "table.csv")
    assert list(rows["setting"]) == ["shared=1", "shared=1", "shared=2", "shared=2"]
    assert list(rows["arm"]) == ["GRPO", "LambdaGRPO"] * 2
