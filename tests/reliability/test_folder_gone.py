"""A run goes on where somebody removes or moves what it has written, and says so."""

import json
from pathlib import Path

import pytest

from lgrpo_lightning.rollouts.metrics_csv import MetricsCSV
from lgrpo_lightning.rollouts.whole_files import UnwritableError, write_whole
from tests.runs import checkpoint, fit, metrics, rollouts

RUN = {
    "trainer__max_steps": 5,
    "trainer__callbacks": json.dumps([{"class_path": "LastCheckpoint", "init_args": {"every_n_rollouts": 1}}]),
}


@pytest.mark.long
def test_a_run_goes_on_where_its_files_are_removed_or_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, moved = tmp_path / "run", tmp_path / "moved"
    root.mkdir()
    monkeypatch.chdir(root)
    reward = {"class_path": "tests.reliability.rewards.Removes", "init_args": {"folder": str(root)}}
    with pytest.warns(UserWarning, match="checkpoints is no folder any more") as warnings:
        fit(root, model__reward_model=json.dumps(reward), **RUN)
    warned = "\n".join(str(w.message) for w in warnings)
    assert "metrics.csv was removed or replaced while the run goes on: it begins anew. The rows before" in warned
    assert "checkpoints is no folder any more. It is kept as checkpoints.old-1" in warned
    assert f"{root} was removed, moved or emptied (trainer.default_root_dir)" in capsys.readouterr().out
    assert (moved / "checkpoints.old-1").is_file()
    assert metrics(moved)["rollout"].tolist() == [1, 2]
    assert set(rollouts(moved)["rollout"]) == {0, 1, 2}
    assert metrics(root)["rollout"].tolist() == [3, 4]
    assert checkpoint(root)["global_step"] == checkpoint(moved)["global_step"] + 2 == 5
    assert (root / "config.yaml").read_text() == (moved / "config.yaml").read_text()


def test_another_file_in_the_place_of_metrics_is_kept(tmp_path: Path) -> None:
    logger = MetricsCSV(dir=str(tmp_path))
    for step in range(2):
        logger.log_metrics({"a": 1.0, "half a pair: \ud83d": 1.0}, step=step)
    assert metrics(tmp_path)["a"].tolist() == [1.0, 1.0]
    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.warns(UserWarning, match=r"is kept as .*metrics\.old-1\.csv"):
        logger.log_metrics({"a": 2.0}, step=2)
    assert (tmp_path / "metrics.old-1.csv").read_text() == "mine"
    assert metrics(tmp_path)["a"].tolist() == [2.0]


def test_what_cannot_be_written_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableError, match=r"file/x/last\.ckpt cannot be written \(Not a directory\)\. Make it"):
        write_whole(tmp_path / "file" / "x" / "last.ckpt", "text")
