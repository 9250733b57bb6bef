import re
from pathlib import Path

import pytest

from lgrpo_lightning.callbacks import CompletionTable, RewardProgressBar
from lgrpo_lightning.training import Updates
from tests.callbacks.stub import StubModule, fit


def test_piped_it_is_one_plain_line_per_rollout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, CompletionTable(every_n_rollouts=0))
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("rollout")]
    assert len(lines) == 5
    assert re.fullmatch(r"rollout 1/5  reward 0\.100  loss 0\.250  len 2  \d+\.\d s", lines[0])
    assert lines[4].startswith("rollout 5/5  reward 0.500")
    assert "\x1b" not in out
    assert "\r" not in out


def test_validation_has_its_own_line_and_then_stays_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, limit_val_batches=1, val_check_interval=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("rollout", "validation"))]
    assert re.fullmatch(r"validation  val/accuracy 0\.200  \d+\.\d s", lines[2])
    assert lines[3].startswith("rollout 3/5  reward 0.300  accuracy 0.200  loss")


def test_limits_count_rollouts_not_optimizer_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, max_epochs=-1, max_steps=6)  # two optimizer steps a rollout
    assert re.findall(r"^rollout (\S+)", capsys.readouterr().out, re.M) == ["1/3", "2/3", "3/3"]
    module = StubModule()
    module.updates = Updates(max_rollouts=2)
    fit(tmp_path / "b", module=module, max_epochs=-1, max_steps=6)
    assert "rollout 1/2 " in capsys.readouterr().out


def test_on_a_terminal_the_reward_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lgrpo_lightning.callbacks.progress.is_on_terminal", lambda: True)
    bar = RewardProgressBar()
    shown = []

    def update(self: object, trainer: object, pl_module: object) -> None:
        shown.append(bar.get_metrics(trainer, pl_module))

    monkeypatch.setattr(RewardProgressBar, "_update_metrics", update)
    fit(tmp_path, bar, limit_val_batches=1, val_check_interval=2)
    assert shown[0] == {"reward": "0.100", "loss": "0.250", "len": "2"}
    assert list(shown[-1]) == ["reward", "accuracy", "loss", "len"]
    assert bar.progress.tasks[0].description == "Rollouts"
    assert (bar.progress.tasks[0].completed, bar.progress.tasks[0].total) == (5, 5)


def test_on_a_terminal_lines_stay_above_the_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of every validation and of every n-th rollout."""
    monkeypatch.setattr("lgrpo_lightning.callbacks.progress.is_on_terminal", lambda: True)
    fit(tmp_path, RewardProgressBar(every_n_rollouts=2), limit_val_batches=1, val_check_interval=2)
    out = capsys.readouterr().out
    assert re.findall(r"^rollout (\d)/5  reward", out, re.M) == ["1", "3", "5"]
    assert len(re.findall(r"^validation  val/accuracy", out, re.M)) == 2


def test_disabled_it_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, enable_progress_bar=False)
    assert "rollout 1/5" not in capsys.readouterr().out
