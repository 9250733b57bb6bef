"""Runs whose training prompts are read as they are needed."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lgrpo_lightning.data.arithmetic import ArithmeticTasks
from tests.reliability.processes import RUN, check_kill_and_resume, check_two_processes
from tests.runs import fit, rollouts


def train(path: Path, **options: Any) -> dict[str, Any]:
    """Options of a run on 14 sums in a file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in ArithmeticTasks(count=14).rows()))
    given = {"class_path": "PromptFile", "init_args": {"path": str(path), **options}}
    return {
        "data__train": json.dumps(given),
        "data__train__init_args__count": None,
        "data__prompts_per_step": 2,
    }


@pytest.mark.long
def test_it_equals_a_run_that_holds_its_prompts(tmp_path: Path) -> None:
    options = {"data__shuffle": "false", "trainer__max_steps": 8}
    held = fit(tmp_path / "held", **train(tmp_path / "a.jsonl"), **options)
    streamed = fit(tmp_path / "streamed", **train(tmp_path / "a.jsonl", streaming=True), **options)
    pd.testing.assert_frame_equal(rollouts(held), rollouts(streamed))


REFILL = {"model__updates__refill_rounds": 1, "model__group_size": 3}


@pytest.mark.slow
def test_kill_and_resume(tmp_path: Path) -> None:
    options = RUN | train(tmp_path / "a.jsonl", streaming=True, shuffle_buffer=5) | REFILL
    check_kill_and_resume(tmp_path, 4, **options | {"trainer__max_steps": 12})


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    options = train(tmp_path / "a.jsonl", streaming=True, shuffle_buffer=5) | REFILL
    check_two_processes(tmp_path, **options | {"trainer__max_steps": 6})
