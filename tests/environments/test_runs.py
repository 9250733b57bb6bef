"""Whole runs with an environment: killed and resumed, on two processes, in both layouts, and what they leave."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from tests.reliability.processes import RUN, Run, same_run
from tests.runs import checkpoint, fit, lgrpo_arguments, rollouts, train_metrics
from tests.several import commands

EVERY_ROLLOUT = RUN["trainer__callbacks"]
GAME = {
    "model__sampler": json.dumps(
        {
            "class_path": "EnvironmentSampler",
            "init_args": {"environment": {"class_path": "GuessingGame"}, "max_turns": 3},
        }
    ),
    "model__reward_model": "EnvironmentReward",
    "model__segmenter": "TurnSegmenter",
    "model__sampling__stop": '["="]',
    "data__prompts_per_step": 4,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("game"), **GAME, trainer__callbacks=EVERY_ROLLOUT)


def test_what_a_run_leaves(whole: Path) -> None:
    table = rollouts(whole)
    turns = [json.loads(t) for t in table["turns"]]
    assert all(t[0]["role"] == "assistant" and t[0]["start"] == 0 for t in turns)
    assert sum(len(t) > 1 for t in turns) > 3
    logged = train_metrics(whole)
    assert {"episodes/turns", "episodes/failed", "rewards/EnvironmentReward/mean"} <= set(logged)
    assert (logged["rewards/not_applicable"] == 0).all()


@pytest.mark.long
def test_killed_and_resumed(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    run = Run(root, **GAME, trainer__callbacks=EVERY_ROLLOUT)
    run.until("rollouts/rollout-000001-rank-000.parquet")
    run.signalled(signal.SIGKILL)
    assert run.ended() == -signal.SIGKILL
    fit(root, **GAME, trainer__callbacks=EVERY_ROLLOUT, ckpt_path="last")
    same_run(whole, root)


@pytest.mark.long
@pytest.mark.parametrize(
    ("strategy", "isolation"),
    [
        ("ddp", "process"),
        ("fsdp2", "thread"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("ddp", "thread"), ("fsdp2", "process"))),
    ],
)
def test_two_processes(strategy: str, isolation: str, whole: Path, tmp_path: Path) -> None:
    """Ranks take as many turns as their own episodes have, with environments on threads or in processes of theirs."""
    sampler = json.loads(str(GAME["model__sampler"]))
    sampler["init_args"]["isolation"] = isolation
    options = {**GAME, "model__sampler": json.dumps(sampler)}
    command = lgrpo_arguments(
        "fit", tmp_path, **options, trainer__accelerator="cpu", trainer__devices=2, trainer__strategy=strategy
    )
    commands([command])
    here, there = rollouts(tmp_path), rollouts(whole)
    assert list(here["completion"]) == list(there["completion"])
    assert list(here["turns"]) == list(there["turns"])


def test_layouts_agree(tmp_path: Path) -> None:
    padded, tree = (
        fit(tmp_path / layout, **GAME, trainer__max_steps=1, model__policy__layout=layout)
        for layout in ("padded", "tree")
    )
    a, b = (checkpoint(root)["state_dict"] for root in (padded, tree))
    assert isinstance(a, dict)
    assert isinstance(b, dict)
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], atol=1e-5, rtol=0)
