"""A judge that is down for a while, in a whole run."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runs import VALIDATED, checkpoint, fit, lgrpo, metrics, rollouts, train_metrics

JUDGE = """
calls = 0
def judge(completions, completion_ids, down=(), **columns):
    global calls
    calls += 1
    if calls - 1 in down:
        raise ConnectionError("503")
    return [float(sum(ids) % 3) for ids in completion_ids]
"""


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``judge(*calls)``: a reward that is down at these calls, from 0."""
    (tmp_path / "a_judge.py").write_text(JUDGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def reward(*down: int, **options: Any) -> str:
        sys.modules.pop("a_judge", None)
        init_args = {
            "function": "a_judge.judge",
            "kwargs": {"down": list(down)},
            "on_error": "none",
            **options,
        }
        return json.dumps({"class_path": "RewardFunction", "init_args": init_args})

    yield reward
    sys.modules.pop("a_judge", None)


RUN: dict[str, Any] = {"trainer__max_steps": 4}


def test_a_rollout_that_nobody_judged_makes_no_update_and_is_seen(tmp_path: Path, judge: Any) -> None:
    with pytest.warns(RuntimeWarning, match="ConnectionError: 503"):
        root = fit(tmp_path / "run", model__reward_model=judge(1, 2), **RUN)
    table = train_metrics_of(root)
    assert table["rewards/judge/errors"].tolist() == [0, 1, 1, 0, 0, 0]
    assert table["rewards/not_applicable"].tolist() == [0, 1, 1, 0, 0, 0]
    assert table["updates/skipped"].tolist() == [0, 1, 1, 0, 0, 0]
    assert table["step"].tolist() == [1, 1, 1, 2, 3, 4]
    assert table["reward"].isna().tolist() == [False, True, True, False, False, False]
    written = rollouts(root)
    assert written.query("rollout in (1, 2)")["reward"].isna().all()
    assert (written.query("rollout in (1, 2)")["advantage"] == 0).all()
    assert not written.query("rollout in (1, 2)")["trained"].any()
    assert checkpoint(root)["global_step"] == 4


def train_metrics_of(root: Path) -> Any:
    table = metrics(root)
    return table[table["rollout"].notna()].reset_index(drop=True)


@pytest.mark.long
def test_an_outage_without_end_stops_the_run(tmp_path: Path, judge: Any, capsys: pytest.CaptureFixture[str]) -> None:
    reward = judge(*range(2, 99), max_errors_in_a_row=3)
    with pytest.warns(RuntimeWarning, match="ConnectionError: 503"):
        assert lgrpo("fit", tmp_path / "run", model__reward_model=reward, **RUN) == 2
    said = capsys.readouterr()
    assert "Reward function 'judge' failed 3 times in a row" in said.err
    assert checkpoint(tmp_path / "run")["global_step"] == 2
    assert train_metrics(tmp_path / "run")["step"].tolist() == [1, 2]


@pytest.mark.long
def test_validation_without_a_judge_is_not_measured(tmp_path: Path, judge: Any) -> None:
    """Calls: greedy and samples before training, two rollouts, greedy and samples after the second."""
    run = VALIDATED | {"trainer__max_steps": 4, "trainer__val_check_interval": 2, "model__validation__at_end": "false"}
    with pytest.warns(RuntimeWarning, match="ConnectionError: 503"):
        root = fit(tmp_path / "run", model__reward_model=judge(4, 5), **run)
    table = metrics(root)
    table = table[table["val/completions/mean_length"].notna()]
    assert table["step"].tolist() == [0, 2, 4]
    assert table["val/accuracy"].isna().tolist() == [False, True, False]
    assert table["val/avg@k"].isna().tolist() == [False, True, False]
