"""Going on with another configuration or on another number of processes: what differs is said."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from tests.reliability.processes import RUN, finished, finished_pair
from tests.runs import checkpoint, fit, lgrpo, metrics, rollouts

HALF = RUN | {"trainer__max_steps": 4}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of four rollouts."""
    return fit(tmp_path_factory.mktemp("half"), **HALF)


@pytest.fixture
def half(begun: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(begun, tmp_path / "run")


def test_other_options_are_named(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    changed = {
        "model__advantage_estimator": "GRPO",
        "model__group_size": 6,
        "model__optimizer__init_args__lr": 0.01,
        "data__train__init_args__count": 8,
    }
    assert lgrpo("fit", half, ckpt_path="last", **RUN | changed) == 0
    said = capsys.readouterr()
    assert "Going on with another configuration than" in said.out
    assert "  model.advantage_estimator.class_path: " in said.out
    assert "GRPO" in said.out
    assert "  model.group_size: 4 -> 6\n" in said.out
    assert "  model.optimizer.init_args.lr: 0.0002 -> 0.01\n" in said.out
    assert "The optimizer goes on with lr: 0.0002 -> 0.01." in said.out
    assert "  data.train.init_args.count: 6 -> 8" in said.out
    assert "max_steps" not in said.out
    rates = metrics(half)["learning_rate"].dropna()
    assert rates.tolist() == pytest.approx([2e-4] * 2 + [0.01] * 2)
    assert yaml.safe_load((half / "config.yaml").read_text())["model"]["optimizer"]["init_args"]["lr"] == 0.01
    assert len(rollouts(half)) == 2 * 2 * 4 + 2 * 2 * 6


def test_nothing_is_said_where_nothing_differs(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert lgrpo("fit", half, ckpt_path="last", **RUN) == 0
    assert "another configuration" not in capsys.readouterr().out


def test_what_cannot_work_is_refused(half: Path, model_folder: object, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    assert lgrpo("fit", half, ckpt_path="last", **RUN | {"model__optimizer": str(other)}) == 2
    assert "but the checkpoint has the state of torch.optim.AdamW" in capsys.readouterr().err
    assert lgrpo("fit", half, ckpt_path="last", **RUN | {"model__optimizer__init_args__amsgrad": "true"}) == 2
    assert "model.optimizer.init_args.amsgrad is True, but the checkpoint" in capsys.readouterr().err
    path = model_folder("llama")  # type: ignore[operator]
    assert lgrpo("fit", half, ckpt_path="last", **RUN | {"model__policy__path": path}) == 2
    said = capsys.readouterr().err
    assert "The checkpoint is of another model" in said
    assert "model.policy.path" in said


ROWS = [{"prompt": f"{i}+1=", "answer": i + 1} for i in range(6)]
OTHERS = {
    "reversed": (list(reversed(ROWS)), "data.train has the same prompts in another order"),
    "answers": ([row | {"answer": 7} for row in ROWS], "data.train has other prompts"),
}
REWARD = """
def right(completions, answer, **kwargs):
    return [{}float(str(a) in c) for c, a in zip(completions, answer)]
"""


@pytest.mark.long
def test_other_data_and_code_under_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    rows, reward = tmp_path / "rows.jsonl", tmp_path / "changing_reward.py"
    options = RUN | {
        "data__train__init_args__count": None,
        "data__train": "rows.jsonl",
        "model__reward_model": '{"class_path": "RewardFunction", "init_args": {"function": "changing_reward.right"}}',
    }

    def went_on(given: list[dict[str, object]], sign: str, status: int = 0, **more: object) -> str:
        rows.write_text("\n".join(map(json.dumps, given)))
        reward.write_text(REWARD.format(sign))
        sys.modules.pop("changing_reward", None)
        capsys.readouterr()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            assert lgrpo("fit", tmp_path / "run", **options | more) == status
        said = capsys.readouterr()
        return said.out + said.err + "".join(str(w.message) for w in warned)

    went_on(ROWS, "", trainer__max_steps=2)
    said = went_on(ROWS, "", ckpt_path="last", trainer__max_steps=4)
    assert "other code" not in said
    assert "other data" not in said
    for given, message in OTHERS.values():
        assert message in went_on(given, "", ckpt_path="last", trainer__max_steps=4, status=2, data__on_change="error")
    said = went_on(OTHERS["answers"][0], "-", ckpt_path="last", trainer__max_steps=6)
    assert "data.train has other prompts" in said
    assert "  changing_reward.right: the file in which it is written has changed\n" in said


def test_a_checkpoint_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lgrpo("fit", tmp_path, ckpt_path=tmp_path / "x.ckpt", **HALF) == 2
    assert "there is no checkpoint" in capsys.readouterr().err
    assert lgrpo("fit", tmp_path, ckpt_path="last", **HALF | {"trainer__max_steps": 2}) == 0
    assert "--ckpt_path last: there is no checkpoint in" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_on_another_number_of_processes(strategy: str, tmp_path: Path) -> None:
    """From one to two and from two to one: the same prompts follow, and the log says what starts anew."""
    whole = finished(tmp_path / "whole", **RUN)
    for first, second in ((1, 2), (2, 1)):
        root = tmp_path / f"from-{first}"
        run = {1: finished, 2: finished_pair}
        options = {1: RUN, 2: RUN | {"trainer__strategy": strategy}}
        run[first](root, **options[first] | {"trainer__max_steps": 4})
        run[second](root, log="then", ckpt_path="last", **options[second])
        name = f"{root.name}.then.log" if second == 1 else f"{root.name}.then.rank0.log"
        said = (tmp_path / name).read_text()
        was, now = ("1 process", "2 processes") if first == 1 else ("2 processes", "1 process")
        assert f"The checkpoint was made by {was}, this run has {now}" in said
        assert checkpoint(root)["global_step"] == 8
        a, b = rollouts(whole), rollouts(root)
        assert list(a["prompt_uid"]) == list(b["prompt_uid"])
        assert list(a["rollout"]) == list(b["rollout"])


def test_a_refused_resume_leaves_the_configuration_alone(half: Path) -> None:
    before = (half / "config.yaml").read_text()
    assert lgrpo("fit", half, ckpt_path="last", **RUN, model__policy__lora__rank=4) == 2
    assert (half / "config.yaml").read_text() == before


def test_a_configuration_that_a_kill_left_empty(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (half / "config.yaml").write_text("")
    assert lgrpo("fit", half, ckpt_path="last", **RUN) == 0
    assert "holds no configuration" in capsys.readouterr().out
