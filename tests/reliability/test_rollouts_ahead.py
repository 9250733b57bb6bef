"""Killed or stopped with rollouts in flight, and resumed to the bit."""

import signal
import time
from pathlib import Path

import pytest

from tests.reliability.processes import RUN, Launched, Run, finished, finished_pair, pair, same_run

AHEAD = RUN | {
    "model__sampler": '{"class_path": "tests.samplers.apart.ApartSampler", "init_args": {"seconds": 0.3}}',
    "model__group_size": 8,
    "model__policy__dropout": 0.1,
}
SECOND = "rollouts/rollout-000001-rank-000.parquet"


TWO_AHEAD = AHEAD | {"model__updates__rollouts_ahead": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run with two rollouts ahead."""
    return finished(tmp_path_factory.mktemp("whole") / "run", **TWO_AHEAD)


@pytest.mark.long
@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_killed_with_rollouts_in_flight(count: int, whole: Path, tmp_path: Path) -> None:
    options = AHEAD | {"model__updates__rollouts_ahead": count}
    run = Run(tmp_path / "run", **options)
    run.until(SECOND)
    time.sleep(0.2)
    run.signalled(signal.SIGKILL)
    assert run.ended() == -signal.SIGKILL
    finished(tmp_path / "run", log="2", ckpt_path="last", **options)
    same_run(whole if count == 2 else finished(tmp_path / "whole", **options), tmp_path / "run")


@pytest.mark.long
def test_stopped_with_rollouts_in_flight(whole: Path, tmp_path: Path) -> None:
    """The state held in memory has the weights of the rollouts in flight, too; a stop does not wait for them."""
    slow = {"class_path": "tests.samplers.apart.ApartSampler", "init_args": {"seconds": 5.0}}
    options = TWO_AHEAD | {"trainer__callbacks": None}
    run = Run(tmp_path / "run", **options)
    run.until(SECOND)
    run.signalled(signal.SIGTERM)
    assert run.ended(30) == 143
    assert "SIGTERM ended the run after" in run.said()
    finished(tmp_path / "run", log="2", ckpt_path="last", **options)
    same_run(whole, tmp_path / "run")
    waiting = Run(tmp_path / "waiting", **options | {"model__sampler": slow})
    waiting.until("config.yaml")
    time.sleep(4)
    asked = time.monotonic()
    waiting.signalled(signal.SIGTERM)
    assert waiting.ended(30) == 143, waiting.said()[-3000:]
    assert time.monotonic() - asked < 10


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes(strategy: str, tmp_path: Path) -> None:
    options = AHEAD | {"model__updates__rollouts_ahead": 1, "trainer__strategy": strategy}
    both = pair(tmp_path / "run", **options)
    both[0].until(SECOND)
    time.sleep(0.2)
    for run in both:
        run.signalled(signal.SIGKILL)
    assert [run.ended() for run in both] == [-signal.SIGKILL] * 2
    finished_pair(tmp_path / "run", log="2", ckpt_path="last", **options)
    same_run(finished_pair(tmp_path / "whole", **options), tmp_path / "run")


@pytest.mark.long
def test_the_status_is_the_runs_where_a_reward_is_within_torch(tmp_path: Path) -> None:
    options = AHEAD | {
        "model__updates__rollouts_ahead": 1,
        "model__reward_model": "tests.reliability.rewards.Computes",
    }
    run = Launched(tmp_path / "run", **options)
    run.until("computing")
    run.signalled(signal.SIGTERM)
    assert run.ended(40) == 143, run.said()[-3000:]
    assert "terminate called" not in run.said()
