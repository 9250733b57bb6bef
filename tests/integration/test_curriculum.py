"""Prompts drawn by their pass rates: the same after a kill, and on two processes; with dynamic sampling beside it."""

from pathlib import Path

import numpy as np
import pytest

from lgrpo_lightning.data.curriculum import Curriculum, PassRates
from tests.reliability.processes import RUN, check_kill_and_resume, check_two_processes
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
    whole = check_kill_and_resume(tmp_path, 2, **RUN | CURRICULUM)  # the rates, too
    assert (checkpoint(whole)["PromptDataModule"]["pass_rates"] >= 0).sum() > 4  # type: ignore[index]


@pytest.mark.long
def test_two_processes_equal_one(tmp_path: Path) -> None:
    check_two_processes(tmp_path, "curriculum/seen", "curriculum/pass_rate", **CURRICULUM | {"trainer__max_steps": 4})
