from pathlib import Path

import pytest

from lgrpo_lightning.rollouts.metric_series import describe_changes
from tests.callbacks.stub import FailureError, StubModule, fit


def test_says_what_came_of_it_where_it_is_and_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    fit(Path("run"), limit_val_batches=1, val_check_interval=2)
    out = capsys.readouterr().out
    summary = out[out.index("Done:") :].splitlines()
    assert summary[0].startswith("Done: 5 rollouts, 10 optimizer steps, in ")
    assert summary[1:3] == [
        "  reward           0.150 -> 0.450   (means of the first and last 2 rollouts)",
        "  val/accuracy     0.200 -> 0.400",
    ]
    assert summary[3] == "Everything is in run:"
    assert [line.split()[0] for line in summary[4:10]] == [
        "rollouts",
        "checkpoints/last.ckpt",
        "metrics.csv",
        "reward.png",
        "config.yaml",
        "environment.json",
    ]
    assert summary[10:] == [
        "Next:",
        "  lgrpo validate --config run/config.yaml --ckpt_path run/checkpoints/last.ckpt",
        "  lgrpo report run",
        "  python -c \"import pandas; print(pandas.read_parquet('run/rollouts')"
        "[['rollout', 'prompt', 'completion', 'reward', 'advantage']])\"",
        "  tensorboard --logdir run",
    ]


def test_names_only_what_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, logger=False, enable_checkpointing=False)
    out = capsys.readouterr().out
    assert "rollouts" in out
    for absent in ("metrics.csv", "reward.png", "last.ckpt", "tensorboard", "lgrpo validate", "lgrpo report"):
        assert absent not in out


def test_a_resumed_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FailureError):
        fit(tmp_path, module=StubModule(fail=(2, "sample")))
    assert "Done:" not in capsys.readouterr().out
    fit(tmp_path, ckpt_path="last")
    assert "Done: 5 rollouts (resumed after 2), 10 optimizer steps" in capsys.readouterr().out


def test_one_value_has_no_from_and_to() -> None:
    assert describe_changes({"reward": ([1], [0.5]), "val/accuracy": ([0], [0.25])}) == {
        "reward": "0.500 -> 0.500",
        "val/accuracy": "0.250",
    }
