"""A value that names a file is a path: no module of its name is imported, which would run it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from lgrpo_lightning import cli
from tests.integration.bad_inputs import configured

ROW = {"prompt": "1+2+3+4=", "answer": 10}
SCRIPT = "from pathlib import Path\nPath('ran').write_text(__name__)\n"
SETS = {
    "a file": "prompts.jsonl",
    "a file that is not there": "promtps.jsonl",
    "a folder": "prompts.data",
    "a file of another kind": "prompts.tsv",
    "sets by name": {"easy": "prompts.jsonl", "hard": "promtps.csv"},
    "an item of a source": {"class_path": "PromptFile", "init_args": {"path": "prompts.jsonl"}},
}
"""What ``data.*`` may be given, beside scripts of the same names."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with data and with scripts that leave a file where they are run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text((json.dumps(ROW) + "\n") * 2)
    (tmp_path / "prompts.data").mkdir()
    for name in ("prompts", "promtps", "judge"):
        (tmp_path / f"{name}.py").write_text(SCRIPT)
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize("key", ["data.train", "data.validation", "data.test", "data.predict"])
@pytest.mark.parametrize("given", SETS)
def test_data_is_a_path(folder: Path, key: str, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = SETS[given]
    if isinstance(value, dict) and key == "data.train" and "class_path" not in value:
        value = "prompts.jsonl"  # one set
    (folder / "run.yaml").write_text(configured({key: value}))
    with pytest.raises(SystemExit) as ended:
        cli.main(["fit", "--config=run.yaml", "--print_config"])
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)["data"][key.removeprefix("data.")]
    assert value == printed or printed["init_args"]["path"] == "prompts.jsonl"
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    "flags",
    [
        "model.reward_model=prompts.jsonl",
        "model.reward_model=[prompts.jsonl]",
        "model.reward_model=RewardFunction model.reward_model.function=judge.py",
        "model.sampler=promtps.py",
        "model.optimizer=prompts.jsonl",
        "model.policy.path=prompts.jsonl",
        "trainer.callbacks=prompts.jsonl",
        "trainer.callbacks+=prompts.jsonl",
        "trainer.logger=promtps.csv",
        "trainer.strategy=prompts.jsonl",
        "ckpt_path=prompts.jsonl",
        "model.group_size=prompts.jsonl",
    ],
)
def test_nothing_is_run_whatever_the_key(folder: Path, flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run.yaml").write_text(configured({"data.train": "prompts.jsonl"}))
    assert cli.main(["fit", "--config=run.yaml", *(f"--{flag}" for flag in flags.split())]) == 2
    assert not (folder / "ran").exists(), capsys.readouterr().err


def test_sets_on_the_command_line(folder: Path) -> None:
    (folder / "run.yaml").write_text(configured({"trainer.max_steps": 1}))
    sets = '--data.validation={"easy": "prompts.jsonl", "hard": "prompts.jsonl"}'
    assert cli.main(["fit", "--config=run.yaml", "--data.train=prompts.jsonl", sets]) == 0
    assert not (folder / "ran").exists()


def test_own_classes_still_go_by_their_import_path(folder: Path) -> None:
    (folder / "mine_of_my_own.py").write_text(
        "from lgrpo_lightning import PromptSource\n"
        "class Mine(PromptSource):\n    def rows(self):\n        return [{'prompt': '1+2=', 'answer': 3}] * 2\n"
    )
    (folder / "run.yaml").write_text(configured({"trainer.max_steps": 1}))
    assert cli.main(["fit", "--config=run.yaml", "--data.train=mine_of_my_own.Mine"]) == 0
