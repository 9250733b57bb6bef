"""Limits of a run that contradict each other are refused; those that just fit are not."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lgrpo_lightning.training import Updates
from lgrpo_lightning.training.run_limits import check_steps, count_planned_steps
from lgrpo_lightning.training.settings import check_limits, check_trainer

TWO = Updates(mini_batches=2)


def check(updates: Updates = TWO, **options: Any) -> Trainer:
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
    }
    trainer = Trainer(**quiet, **options)
    check_limits(trainer, updates, count_planned_steps(trainer, updates))
    return trainer


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_steps": 6, "min_steps": 6}, None),
        ({"max_steps": 7, "min_steps": 7}, "trainer.min_steps is 7, but .* after 6"),
        ({"max_steps": 2}, None),
        (
            {"max_steps": 1},
            r"trainer.max_steps is 1, and a rollout makes 2 optimizer steps .* Use at least 2",
        ),
        ({"max_steps": 0}, "trainer.max_steps is 0, so that nothing would be trained"),
        ({"max_epochs": 0}, "trainer.max_epochs is 0"),
        ({"max_epochs": 1, "min_steps": 9}, None),
    ],
)
def test_limits(options: dict[str, Any], says: str | None) -> None:
    if says is None:
        check(**options)
    else:
        with pytest.raises(ValueError, match=says):
            check(**options)


def test_an_end_before_the_limit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    check(max_steps=7)
    assert "the run ends with the last whole rollout, after 6 steps" in capsys.readouterr().out
    check(max_steps=6)
    check(Updates(mini_batches=2, drop_equal_groups=True), max_steps=7)
    assert capsys.readouterr().out == ""


def test_a_short_trial_counts_rollouts() -> None:
    assert check(fast_dev_run=3).fit_loop.epoch_loop.max_steps == 6


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
    }
    for options in ({}, {"fast_dev_run": 1}):
        trainer = Trainer(**quiet, **options, default_root_dir=tmp_path / "file" / "run")  # type: ignore[arg-type]
        trainer.state.fn = TrainerFn.FITTING
        with nullcontext() if options else pytest.raises(ValueError, match="nothing can be written there"):
            check_trainer(trainer, Updates(), None)


def test_rollouts_without_a_step() -> None:
    updates = Updates(max_rollouts_without_step=3)
    check_steps(updates, 2, {"frac_reward_zero_std": 1.0})
    with pytest.raises(ValueError, match=r"3 rollouts in a row made no optimizer step .*no token was trained"):
        check_steps(updates, 3, {})
