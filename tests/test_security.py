"""``SECURITY.md``: each of its lines has a test; those that are tested nowhere else are here."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
import yaml

from lgrpo_lightning import cli
from lgrpo_lightning.commands.resume import tell_changes
from lgrpo_lightning.registry.import_path import import_object
from lgrpo_lightning.rewards import RewardFunction
from lgrpo_lightning.rollouts.whole_files import write_whole
from lgrpo_lightning.testing import toy_group, toy_tree
from tests.models import tokenizer
from tests.monitoring.sick_runs import SICK, write_run
from tests.runs import lgrpo

ROOT = Path(__file__).parent.parent
SECURITY = (ROOT / "SECURITY.md").read_text()
LAMBDA = "lightning.pytorch.callbacks.LambdaCallback"

MODULE = """
from functools import partial
from os import system
from pathlib import Path

def touch(*arguments, **options):
    Path("ran").write_text("")

class Touch:
    def __init__(self):
        touch()

quiet = partial(system, "touch ran")
"""
"""Stands for code of one's own, or an installed package."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a module."""
    (tmp_path / "touching.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def called(path: str) -> dict[str, Any]:
    return {"class_path": path, "init_args": {"command": "touch ran"} if "system" in path else {}}


def reward(**options: Any) -> dict[str, Any]:
    return {"class_path": "RewardFunction", "init_args": options}


STANDARD: Mapping[str, Any] = {
    "model.optimizer": called("os.system"),
    "model.sampler": called("subprocess.Popen"),
    "model.reward_model": reward(function="os.system"),
    "trainer.callbacks": [{"class_path": LAMBDA, "init_args": {"on_fit_start": called("touching.system")}}],
}
FUNCTIONS: Mapping[str, Any] = {
    "model.optimizer": called("touching.touch"),
    "model.reward_model": reward(function=called("touching.touch")),
    "trainer.callbacks": [{"class_path": LAMBDA, "init_args": {"on_fit_start": called("touching.touch")}}],
}
OTHER_TYPES: Mapping[str, Any] = {
    "model.optimizer": called("touching.Touch"),
    "model.segmenter": called("touching.Touch"),
    "data.train": called("touching.Touch"),
    "trainer.strategy": called("touching.Touch"),
}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        pytest.param(key, value, says, marks=[] if key == "model.optimizer" else [pytest.mark.slow])
        for values, says in (
            (STANDARD, "is of Python's standard library"),
            (FUNCTIONS, "a class_path names a class"),
            (OTHER_TYPES, ""),
        )
        for key, value in values.items()
    ],
)
def test_a_configuration_has_nothing_called_that_does_not_belong_there(
    key: str, value: Any, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lgrpo("fit", folder / "run", **{key: json.dumps(value)}) == 2
    said = capsys.readouterr().err
    assert says in said, said
    assert "Traceback" not in said
    assert not (folder / "ran").exists()


def test_values_of_any_type_are_values(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mapping with a ``class_path`` where anything may stand is a mapping."""
    value = json.dumps({"x": called("touching.Touch")})
    options = {"model.policy.model_kwargs": value, "data.chat_template_kwargs": value, "model.group_size": 0}
    assert lgrpo("fit", folder / "run", **options) == 2
    assert "group_size is 0" in capsys.readouterr().err
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("path", ["os.system", "touching.system", "touching.quiet", "builtins.exec"])
def test_the_standard_library_is_refused_by_any_path(path: str, folder: Path) -> None:
    """Rewards, tools and environments by their import paths."""
    with pytest.raises(ValueError, match="is of Python's standard library"):
        import_object(path)
    assert callable(import_object("touching.touch"))


def test_no_tag_of_yaml_calls_anything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "model:\n  group_size: !!python/object/apply:os.system ['touch ran']\n"
    (folder / "run.yaml").write_text(text)
    assert cli.main(["fit", "--config=run.yaml"]) == 2
    assert "run.yaml, line 2" in capsys.readouterr().err
    assert not (folder / "ran").exists()


def test_code_of_a_received_runs_model_is_not_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``lgrpo export`` builds the model that a run's configuration names, and may let run code of its own."""
    (folder / "run").mkdir()
    torch.save({"state_dict": {}}, folder / "last.ckpt")
    policy = {"path": "model", "model_kwargs": {"trust_remote_code": True}}
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump({"model": {"policy": policy}}))
    assert cli.main(["export", "run", "out", "--checkpoint=last.ckpt"]) == 2
    assert "pass --trust_remote_code" in capsys.readouterr().err


SECRETS = {"api_key": "k1-abc", "hf-token": "k2-abc", "Password": "k3-abc"}
OTHERS = {"max_new_tokens": "7-abc", "pad_token": "8-abc", "tokenizer": "9-abc"}


def test_secrets_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the page of a report, by ``doctor``, and in the lines that say what a resumed run changes."""
    run = write_run(tmp_path / "run", SICK["truncation with a flat reward"][1])
    written = yaml.safe_load((run / "config.yaml").read_text())
    written["model"]["reward_model"] = [reward(kwargs=SECRETS | OTHERS)]
    (run / "config.yaml").write_text(yaml.safe_dump(written))
    cli.main(["doctor", "--json", str(run)])
    pandas.read_csv(run / "metrics.csv")[["step", "reward", "rollout"]].to_csv(run / "metrics.csv", index=False)
    cli.main(["report", str(run)])
    changed = (run / "config.yaml").read_text().replace("abc", "def")
    tell_changes("last", str(run), changed)
    shown = capsys.readouterr().out + (run / "report.html").read_text()
    assert not re.search(r"k\d-(abc|def)", shown)
    for key, value in OTHERS.items():
        assert f"{key}: {value} -&gt; " in shown or f"{key}: {value} -> {value.replace('abc', 'def')}" in shown
        assert f"{key}: {value}" in (run / "report.html").read_text()


def test_a_configuration_on_disk_is_its_owners(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch(0o644)
    write_whole(tmp_path / "config.yaml", "api_key: abc\n", private=True)
    assert (tmp_path / "config.yaml").stat().st_mode & 0o777 == 0o600


def test_a_chat_template_reaches_no_objects() -> None:
    made = tokenizer()
    made.chat_template = "{{ messages.__class__.__mro__[-1].__subclasses__() }}"
    with pytest.raises(Exception, match="is unsafe"):
        made.apply_chat_template([{"role": "user", "content": "1+1="}], tokenize=False)


def test_a_regular_expression_holds_the_interpreter() -> None:
    """``thread: true`` does not help: what waits for the thread does not run either."""
    model = RewardFunction(_without_end, thread=True, timeout=0.01)
    group = toy_group(["a" * 23 + "b"])  # a quarter of a second, far above the limit
    began = time.monotonic()
    model.score_batch([group], [toy_tree(group)])
    assert time.monotonic() - began > 5 * model.timeout


def _without_end(completions: list[str], **columns: Any) -> list[float]:
    return [float(re.match(r"(a+)+$", text) is not None) for text in completions]


def test_every_line_has_a_test() -> None:
    rows = [line for line in SECURITY.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        names = re.findall(r"`([\w/.-]+\.py)::(\w+)`", row)
        assert names, f"no test is named in {row}"
        for file, name in names:
            assert f"def {name}(" in (ROOT / file).read_text(), f"{file} has no {name}"
