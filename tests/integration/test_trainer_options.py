"""The Trainer's options do what their names say."""

import re
from contextlib import nullcontext
from pathlib import Path
from statistics import mean
from typing import ClassVar

import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor

from lgrpo_lightning import Group, ProcessTree
from lgrpo_lightning.rewards import ExactMatch
from lgrpo_lightning.training.settings import check_processes
from tests.reliability.processes import same
from tests.runs import CONFIG, VALIDATED, checkpoint, fit, lgrpo, metrics, rollouts, train_metrics


def test_fast_dev_run_leaves_nothing(tmp_path: Path) -> None:
    fit(tmp_path, trainer__fast_dev_run="true")
    assert not any(tmp_path.rglob("*.parquet"))
    assert not any(tmp_path.rglob("*.ckpt"))


FOUR_STEPS = {"model__updates__iterations": 2, "model__updates__mini_batches": 2}
"""Of every rollout."""


@pytest.mark.long
def test_a_run_that_max_steps_ends_inside_a_rollout_is_resumed_to_the_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``max_steps`` is an upper limit; a run consists of whole rollouts."""
    other = VALIDATED | {
        "trainer__val_check_interval": 1,
        "data__validation__init_args__count": 1,
        "data__train__init_args__count": 6,
        "model__policy__dropout": 0.1,
    }
    whole = fit(tmp_path / "whole", trainer__max_steps=8, **FOUR_STEPS, **other)
    parts = fit(tmp_path / "parts", trainer__max_steps=7, **FOUR_STEPS, **other)
    assert "the run ends with the last whole rollout, after 4 steps" in capsys.readouterr().out
    assert checkpoint(parts)["global_step"] == 4
    fit(parts, trainer__max_steps=11, ckpt_path="last", **FOUR_STEPS, **other)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "lgrpo", "global_step", "epoch"):
        same(checkpoint(whole)[part], checkpoint(parts)[part], part)
    pd.testing.assert_frame_equal(rollouts(whole), rollouts(parts), check_exact=True)
    times = [name for name in metrics(whole) if name.startswith("time/") or name == "tokens_per_second"]
    pd.testing.assert_frame_equal(*(metrics(root).drop(columns=times) for root in (whole, parts)))


def test_fast_dev_run_counts_rollouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, trainer__fast_dev_run=2, trainer__enable_progress_bar="true", **FOUR_STEPS)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("rollout")] == [
        "1/2",
        "2/2",
    ]


NOTHING = [
    {"trainer__limit_train_batches": 0},
    {"trainer__limit_train_batches": 0.1},
    {"trainer__max_steps": 0},
    {"trainer__max_epochs": 0},
    {"model__updates__max_rollouts": 0},
    {"trainer__max_steps": 3, **FOUR_STEPS},
    {"trainer__min_steps": 10},
]
"""Limits within which there is no rollout, or that contradict another one."""


@pytest.mark.parametrize("limits", NOTHING, ids=lambda limits: next(iter(limits)))
def test_limits_that_cannot_be_kept_are_refused(
    limits: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lgrpo("fit", tmp_path, **limits) == 2
    assert next(iter(limits)).rpartition("__")[2] in capsys.readouterr().err
    assert not (tmp_path / "rollouts").exists()


def test_prompts_that_no_epoch_has_are_said(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    fit(
        tmp_path,
        data__shuffle="false",
        data__prompts_per_step=5,
        trainer__max_steps=1,
    )
    assert any("the last 2 of 12 training prompts" in str(warning.message) for warning in recwarn)


def test_max_rollouts(tmp_path: Path) -> None:
    root = fit(tmp_path, trainer__max_steps=None, model__updates__max_rollouts=2)
    assert list(rollouts(root)["rollout"].unique()) == [0, 1]


@pytest.mark.long
def test_max_epochs_and_limit_train_batches(tmp_path: Path) -> None:
    root = fit(tmp_path / "a", trainer__max_steps=None, trainer__max_epochs=1, data__train__init_args__count=6)
    assert rollouts(root)["rollout"].max() == 2  # 6 prompts, 2 a rollout
    root = fit(tmp_path / "b", trainer__max_steps=None, trainer__max_epochs=2, trainer__limit_train_batches=2)
    assert rollouts(root)["rollout"].max() == 3
    assert rollouts(root)["prompt_uid"].nunique() > 4


def test_overfit_batches_repeats_the_same_prompts(tmp_path: Path) -> None:
    root = fit(tmp_path, trainer__max_steps=3, trainer__overfit_batches=1)
    table = rollouts(root)
    assert table["rollout"].max() == 2
    assert table["prompt_uid"].nunique() == 2


def test_limit_val_batches(tmp_path: Path) -> None:
    short = {"trainer__max_steps": 1}
    none = fit(tmp_path / "none", trainer__limit_val_batches=0, trainer__overfit_batches=1, **short)
    assert "val/accuracy" not in metrics(none).columns
    one = fit(tmp_path / "one", trainer__limit_val_batches=1, data__validation_batch_size=1, **short)
    assert metrics(one)["val/avg@k"].dropna().isin([0.0, 0.5, 1.0]).all()


@pytest.mark.parametrize(
    ("option", "ours"),
    [
        ("gradient_clip_val", "model.updates.gradient_clip_val"),
        ("accumulate_grad_batches", "micro_batch_tokens"),
    ],
)
def test_trainer_options_that_answer_with_ours(
    option: str, ours: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lgrpo("fit", tmp_path, **{f"trainer__{option}": 2}) == 2
    assert ours in capsys.readouterr().err


def test_early_stopping_and_best_checkpoint(tmp_path: Path) -> None:
    callbacks = (
        '[{"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/accuracy", '
        '"mode": "max", "patience": 1, "min_delta": 2.0}}, '
        '{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"monitor": "val/accuracy", '
        '"mode": "max", "filename": "best"}}]'
    )
    root = fit(
        tmp_path, trainer__max_steps=30, trainer__val_check_interval=1, trainer__callbacks=callbacks, **VALIDATED
    )
    assert len(train_metrics(root)) < 10  # nothing improves by 2
    assert (root / "checkpoints" / "best.ckpt").is_file()
    assert (root / "checkpoints" / "last.ckpt").is_file()
    torch.load(root / "checkpoints" / "best.ckpt", weights_only=True)


class Seen(ExactMatch):
    """Notes what it scores."""

    groups: ClassVar[list[Group]] = []

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        self.groups.append(group)
        return super().score(group, tree)


def right(group: Group) -> list[bool]:
    """Whether the last number of each completion is the sum of the prompt's."""
    total = sum(map(int, re.findall(r"\d+", group.prompt.text)))
    return [re.findall(r"\d+", c.text)[-1:] == [str(total)] for c in group.completions]


def test_several_named_validation_sets(tmp_path: Path) -> None:
    """The numbers logged are those that are counted in the texts by hand; without a set's name, means of the sets."""
    config = yaml.safe_load(CONFIG.read_text())
    tasks = {"easy": {"count": 3, "terms": 2}, "hard": {"count": 2, "terms": 5}}
    config["data"]["validation"] = {
        name: {"class_path": "ArithmeticTasks", "init_args": args} for name, args in tasks.items()
    }
    path = tmp_path / "two_sets.yaml"
    path.write_text(yaml.safe_dump(config))
    Seen.groups.clear()
    reward = f"{__name__}.Seen"
    own = {"data__validation__init_args__count": None, "trainer__max_steps": 1, "model__validation__k": 3, **VALIDATED}
    root = fit(tmp_path / "run", config=path, model__reward_model=reward, **own)
    row = metrics(root).dropna(subset=["val/accuracy"]).iloc[0]
    expected = dict[str, list[float]]()
    for name, args in tasks.items():
        mine = [right(g) for g in Seen.groups if g.prompt.uid.startswith(f"{name}/")]
        greedy = [g for g in mine if len(g) == 1][: args["count"]]  # before the first step
        sampled = [g for g in mine if len(g) == 3][: args["count"]]
        expected.setdefault("accuracy", []).append(mean(map(sum, greedy)))
        expected.setdefault("avg@k", []).append(mean(sum(g) / 3 for g in sampled))
        expected.setdefault("pass@k", []).append(mean(map(any, sampled)))
    assert len(set(expected["avg@k"])) == 2
    for name, (easy, hard) in expected.items():
        logged = [row[f"val/{which}{name}"] for which in ("easy/", "hard/", "")]
        assert logged == pytest.approx([easy, hard, (easy + hard) / 2], abs=1e-6), name


@pytest.mark.parametrize("accelerator", ["auto", None])
@pytest.mark.parametrize("gpu", [True, False])
def test_an_accelerator_that_is_found_is_the_cpu_without_a_gpu(
    accelerator: str | None, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lgrpo_lightning.training.settings._has_gpu", lambda accelerator: gpu)
    with nullcontext() if gpu else pytest.raises(ValueError, match="more than four are refused"):
        check_processes(9, accelerator, 2)


def test_more_processes_than_cores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_processes(2, "cpu", 2)
    check_processes(99, "gpu", 2)
    check_processes("auto", "cpu", 2)
    with pytest.warns(UserWarning, match=r"trainer\.devices is 8: so many processes would share the 2 cores"):
        check_processes(8, "cpu", 2)
    assert lgrpo("fit", tmp_path, trainer__devices=9999) == 2
    assert "lgrpo: trainer.devices is 9999: so many processes would share" in capsys.readouterr().err
