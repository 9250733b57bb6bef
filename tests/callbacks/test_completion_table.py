import re
from pathlib import Path

import pytest
import torch

from lgrpo_lightning.callbacks import CompletionTable
from lgrpo_lightning.types import Rewards
from tests.callbacks.stub import batch, fit, group, simple_batch, trainer


def shown(tmp_path: Path, table: CompletionTable, made: object) -> None:
    running = trainer(tmp_path, enable_progress_bar=False)
    table.on_rollout_end(running, None, made)


def test_piped_it_is_one_whole_line_per_completion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = batch(
        10,
        [group([[1, 2, 3], [1, 2, 4], list(range(500))])],
        [Rewards(outcome=torch.tensor([1.0, 0.0, 0.5]))],
    )
    object.__setattr__(made.groups[0].completions[0], "text", "a\nb")
    shown(tmp_path, CompletionTable(), made)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0] == (
        "completion  rollout 10  member 0  reward 1  advantage +0.5  "
        r"|λ| 1.67 (2/3 shared)  prompt: say p0  completion: a\nb"
    )
    assert lines[1].endswith("498 499")


def test_only_when_due(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, CompletionTable(every_n_rollouts=3, count=1))
    assert re.findall(r"^completion  rollout (\d+)", capsys.readouterr().out, re.M) == ["0", "3"]
    shown(tmp_path, CompletionTable(every_n_rollouts=0), simple_batch(0))
    assert "completion" not in capsys.readouterr().out


def test_on_a_terminal_it_is_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lgrpo_lightning.callbacks.completion_table.is_on_terminal", lambda: True)
    made = simple_batch(0)
    object.__setattr__(made.groups[0].completions[0], "text", "x" * 300 + "y" * 300 + "[b]" + "= 12")
    shown(tmp_path, CompletionTable(), made)
    out = capsys.readouterr().out
    assert "Rollout 1" in out
    assert "advantage" in out
    assert "…" in out
    assert "= 12" in out.replace("\n", "")
    assert "[b]" in out


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match="count is 0; it must be at least 1"):
        CompletionTable(count=0)
