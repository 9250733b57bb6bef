"""``lgrpo init``: each configuration that it writes parses and trains as it is, and its comments name real keys."""

from __future__ import annotations

import inspect
import json
import re
import sys
from functools import reduce
from pathlib import Path

import pytest
import yaml

from lgrpo_lightning import cli
from lgrpo_lightning.commands.init import MODULES, PLUGINS, TASKS
from lgrpo_lightning.samplers import EnvironmentSampler

HERE = [task for task in TASKS if task not in PLUGINS]
"""The tasks that need no plug-in."""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for module in MODULES.values():  # each test has its own
        sys.modules.pop(module.removesuffix(".py"), None)


def write_task(task: str) -> str:
    """The configuration that ``lgrpo init`` writes."""
    assert cli.main(["init", task]) == 0
    return Path("run.yaml").read_text()


@pytest.mark.parametrize("task", TASKS)
def test_it_writes_a_configuration_and_five_rows(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = write_task(task)
    said = capsys.readouterr().out
    assert "lgrpo fit --config run.yaml" in said
    assert ("pip install -e plugins/lgrpo-" in said) == (task in PLUGINS)
    assert text.startswith("# lgrpo fit --config run.yaml\n")
    assert set(yaml.safe_load(text)) == {"trainer", "model", "data"}
    rows = [json.loads(line) for line in Path("train.jsonl").read_text().splitlines()]
    assert len(rows) == 5
    assert all(set(row) == {"prompt", "tests" if task == "code" else "answer"} for row in rows)
    assert max(map(len, text.splitlines())) <= 130


@pytest.mark.parametrize("task", HERE)
def test_it_parses_and_its_comments_name_real_keys(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    comments = " ".join(re.findall(r"#.*", write_task(task)))
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        cli.main(["fit", "--config=run.yaml", "--print_config"])
    assert not done.value.code
    config = yaml.safe_load(capsys.readouterr().out)
    named = set(re.findall(r"\b(?:trainer|model|data)(?:\.[a-z_]+)+", comments))
    assert {"data.chat", "data.validation", "trainer.val_check_interval", "model.policy.dtype"} <= named
    for key in named:
        reduce(lambda inner, part: inner[part], key.split("."), config)


@pytest.mark.parametrize("task", PLUGINS)
def test_the_comments_of_a_plug_in_name_real_keys(task: str) -> None:
    own = write_task(task).split("reward_model:")[1].split("advantage_estimator")[0]
    assert set(re.findall(r"\b(?:trainer|model|data)(?:\.[a-z_]+)+", own)) <= {"model.policy.path"}


def test_the_sampler_has_the_options_that_the_comments_name() -> None:
    assert "replace `environment` by `tools:" in write_task("tools")
    assert {"environment", "tools"} <= set(inspect.signature(EnvironmentSampler).parameters)


@pytest.mark.parametrize("task", HERE)
def test_it_trains(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(task)
    assert cli.main(["fit", "--config=run.yaml", "--trainer.max_steps=2"]) == 0, capsys.readouterr().err
    assert Path("runs", task, "checkpoints", "last.ckpt").exists()


@pytest.mark.parametrize("name", ["run.yaml", "train.jsonl", "my_reward.py"])
def test_nothing_is_overwritten(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_text("mine")
    assert cli.main(["init", "reward"]) == 2
    assert f"{name} is there already, and nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert Path(name).read_text() == "mine"


def test_files_lie_beside_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "math", "sums/first.yaml"]) == 0
    assert sorted(path.name for path in Path("sums").iterdir()) == ["first.yaml", "train.jsonl"]
    assert "cd sums && lgrpo fit --config first.yaml" in capsys.readouterr().out


def test_without_a_task_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {task} " in said for task in TASKS)
