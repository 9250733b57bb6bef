"""Prompts drawn by their pass rates: the same after a kill, and on two processes; with dynamic sampling beside it."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lgrpo_lightning.data.curriculum import Curriculum, PassRates
from tests.reliability.processes import RUN, Run, finished, finished_pair, same_run
from tests.runs import checkpoint, fit, rollouts, train_metrics

CURRICULUM = {
    "data__curriculum__floor": 0.02,
    "data__prompts_per_step": 2,
    "data__train__init_args__count": 8,
    "model__updates__refill_rounds": 1,
    "model__group_size": 3,
}


@pytest.mark.long
def test_the_rates_are_those_of_the_rollouts(tmp_path: Path) -> None:
    """Replayed from the files that the run wrote."""
    root = fit(tmp_path, **CURRICULUM, trainer__max_steps=6)
    table = rollouts(root)
    rates = PassRates(Curriculum(floor=0.02), [f"train/{n}" for n in range(8)])
    for number, rows in table.groupby("rollout"):
        rates.add(rows.groupby("prompt_uid")["reward"].mean().to_dict())
        row = train_metrics(root).iloc[int(number)]  # type: ignore[call-overload]
        assert row["curriculum/seen"] == rates.compute_metrics()["curriculum/seen"]
        assert row["curriculum/pass_rate"] == pytest.approx(rates.compute_metrics()["curriculum/pass_rate"])
    saved = checkpoint(root)["PromptDataModule"]["pass_rates"]  # type: ignore[index]
    assert saved.tolist() == pytest.approx(np.nan_to_num(rates.rates, nan=-1).tolist())


@pytest.mark.long
def test_kill_and_resume(tmp_path: Path) -> None:
    options: dict[str, Any] = RUN | CURRICULUM
    whole = finished(tmp_path / "whole", **options)
    run = Run(tmp_path / "cut", **options)
    run.until("rollouts/rollout-000002-rank-000.parquet")
    run.signalled(signal.SIGKILL)
    run.process.join()
    resumed = finished(tmp_path / "cut", log="2", ckpt_path="last", **options)
    same_run(whole, resumed)  # the rates, too
    assert (checkpoint(whole)["PromptDataModule"]["pass_rates"] >= 0).sum() > 4  # type: ignore[index]


@pytest.mark.long
def test_two_processes_equal_one(tmp_path: Path) -> None:
    options: dict[str, Any] = CURRICULUM | {
        "trainer__max_steps": 4,
        "model__optimizer__init_args__eps": 1e-5,
    }
    one = fit(tmp_path / "one", **options)
    two = finished_pair(tmp_path / "two", trainer__strategy="ddp", **options)
    pd.testing.assert_frame_equal(rollouts(one), rollouts(two), check_exact=False, atol=1e-4)
    for name in ("curriculum/seen", "curriculum/pass_rate"):
        assert train_metrics(one)[name].tolist() == pytest.approx(train_metrics(two)[name].tolist())
