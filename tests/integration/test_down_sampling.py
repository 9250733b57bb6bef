"""Runs that train only some completions of each group: what they record, after a resume, on two processes."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.reliability.processes import RUN, check_two_processes
from tests.runs import fit, rollouts, train_metrics

KEEP = {"model__group_size": 6, "model__updates__keep_per_group": 2}


def test_all_is_recorded_and_the_most_different_are_trained(tmp_path: Path) -> None:
    root = fit(tmp_path, **KEEP, model__updates__iterations=2, trainer__max_steps=4)
    table = rollouts(root)
    groups = table.groupby(["rollout", "prompt_uid"])
    assert (groups["trained"].sum() == 2).all()
    assert (groups["trained"].size() == 6).all()
    trained = table[table["trained"]].groupby(["rollout", "prompt_uid"])["reward"]
    assert (trained.nunique() == groups["reward"].nunique().clip(upper=2)).all()  # one right and one wrong, if any
    assert table["advantage"].isna().eq(~table["trained"]).all()
    assert (table[table["trained"]].groupby(["rollout", "prompt_uid"])["advantage"].sum().abs() < 1e-3).all()
    rewards = table.groupby("rollout")["reward"].mean()
    assert train_metrics(root)["reward"].tolist() == pytest.approx(rewards.tolist())
    assert train_metrics(root)["loss"].notna().all()


@pytest.mark.long
def test_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    options: dict[str, Any] = RUN | KEEP
    whole = fit(tmp_path / "whole", **options)
    cut = fit(tmp_path / "cut", **(options | {"trainer__max_steps": 4}))
    fit(cut, **options, ckpt_path="last")
    pd.testing.assert_frame_equal(rollouts(whole), rollouts(cut))
    assert train_metrics(whole)["loss"].tolist() == train_metrics(cut)["loss"].tolist()


@pytest.mark.long
def test_two_processes_equal_one(tmp_path: Path) -> None:
    options = KEEP | {"trainer__max_steps": 3, "model__optimizer__init_args__lr": 1e-3}
    check_two_processes(tmp_path, "loss", "reward", "grad_norm", **options)
