"""What an error leaves: the rollouts and checkpoint up to it, and a traceback only where one helps."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from lgrpo_lightning import cli
from lgrpo_lightning.rollouts.names import LAST_CHECKPOINT
from tests.runs import fit, lgrpo, rollouts

FAILING = """
calls = 0
def third(completions, completion_ids, fail=True, **columns):
    global calls
    calls += 1
    if fail and calls == 4:
        raise RuntimeError("the judge is gone")
    return [float(sum(ids) % 3) for ids in completion_ids]
"""


def reward(name: str, **kwargs: object) -> str:
    return json.dumps({"class_path": "RewardFunction", "init_args": {"function": name, "kwargs": kwargs}})


@pytest.mark.long
def test_a_run_that_fails_keeps_everything_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "failing_reward.py").write_text(FAILING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    run = {"trainer__max_steps": 6}
    whole = fit(tmp_path / "whole", model__reward_model=reward("failing_reward.third", fail=False), **run)
    sys.modules.pop("failing_reward")
    root = tmp_path / "broken"
    assert lgrpo("fit", root, model__reward_model=reward("failing_reward.third"), **run) == 2
    sys.modules.pop("failing_reward")
    said = capsys.readouterr()
    assert "'third' failed with RuntimeError: the judge is gone (failing_reward.py, line 7" in said.err
    assert "the first prompts: train/" in said.err
    assert "Traceback" not in said.err
    assert "RewardError ended the run after 3 whole rollouts; the state after 3 is in" in said.out
    before = rollouts(whole).query("rollout < 3")
    pd.testing.assert_frame_equal(before, rollouts(root))
    assert len(pd.read_csv(root / "metrics.csv")["reward"].dropna()) == 3
    assert torch.load(root / LAST_CHECKPOINT, weights_only=True)["global_step"] == 3

    fit(root, model__reward_model=reward("failing_reward.third", fail=False), ckpt_path="last", **run)
    pd.testing.assert_frame_equal(rollouts(whole), rollouts(root))
    sys.modules.pop("failing_reward")


def test_an_error_before_training_says_nothing_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lgrpo("fit", tmp_path, model__schedule__name="cosin") == 2
    said = capsys.readouterr()
    assert "ended the run" not in said.out
    assert said.err.startswith("lgrpo: schedule.name is 'cosin'")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "lgrpo: lgrpo fit needs a configuration: --config FILE. `lgrpo init` writes one"),
        (["--trainer.max_steps", "3"], "lgrpo: model.reward_model is not set"),
    ],
)
def test_nothing_but_the_command(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_traceback_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LGRPO_TRACEBACK", "1")
    assert lgrpo("fit", tmp_path, model__group_size=1) == 2
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert "lgrpo: model.group_size is 1" in said


def test_a_mistake_of_the_library_shows_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lgrpo_lightning.rollouts.components.trained_groups", lambda rewards, drop_equal: None)
    assert lgrpo("fit", tmp_path) == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert "TypeError: 'NoneType' object is not iterable" in said


def test_nan_is_said_once_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nan_reward.py").write_text(
        "def odd(completions, **columns):\n"
        "    return [float('nan') if i % 2 else 1.0 * i for i in range(len(completions))]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.warns(UserWarning, match="'odd' returned NaN for 4 of 8 completions") as caught:
        root = fit(tmp_path / "run", model__reward_model=reward("nan_reward.odd"))
    assert sum("returned NaN" in str(w.message) for w in caught) == 1
    assert (pd.read_csv(root / "metrics.csv")["rewards/odd/nan"].dropna() == 4).all()
    table = rollouts(root)
    assert (table["advantage"][table["reward"].isna()] == 0).all()


@pytest.mark.parametrize("name", ["prompts.csv", "prompts.jsonl"])
def test_a_path_of_data_is_read_as_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as a further configuration file, which the parser would take a string of an existing file for."""
    monkeypatch.chdir(tmp_path)
    text = {
        "prompts.csv": "prompt,answer\n1+1=,2\n2+1=,3\n",
        "prompts.jsonl": '{"prompt": "1+1=", "answer": 2}\n',
    }
    (tmp_path / name).write_text(text[name])
    root = fit(
        tmp_path / "run",
        data__train=name,
        data__train__init_args__count=None,
        data__prompts_per_step=1,
        trainer__max_steps=1,
    )
    assert set(rollouts(root)["prompt"]) <= {"1+1=", "2+1="}
