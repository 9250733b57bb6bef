"""Where a rank is gone or hangs, the others say which one and what it was doing, and end."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from lgrpo_lightning.training.report import Report, machine
from tests.reliability.processes import MINUTES, RUN, SLOW, TWO, Run, finished, gone, same_run

SECOND = "rollouts/rollout-000001-rank-000.parquet"
DDP = RUN | TWO | {"trainer__strategy": "ddp"}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes after one rollout."""
    return finished(tmp_path_factory.mktemp("begun") / "run", **DDP | {"trainer__max_steps": 2})


@pytest.mark.parametrize("victim", ["child", "parent"])
def test_a_rank_is_killed_in_the_middle_of_sampling(victim: str, begun: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    os.system(f"cp -r {begun} {root}")
    run = Run(root, ckpt_path="last", **DDP | MINUTES)
    run.until("Restored all states")
    time.sleep(5)
    (child,) = run.children()
    killed = time.monotonic()
    os.kill(child if victim == "child" else run.pid, signal.SIGKILL)
    number, other = (1, 0) if victim == "child" else (0, 1)
    if victim == "child":
        assert run.ended(60) == 75
    else:
        assert gone(child, 60)
    assert time.monotonic() - killed < 40
    said = run.said()
    pid = child if victim == "child" else run.pid
    assert re.search(rf"lgrpo: Rank {number} \(host \S+, process {pid}\)", said), said[-2000:]
    assert re.search(r"It was sampling train 1 \(for \d+ s\)", said)
    assert f"This is rank {other}, sampling train 1" in said
    assert "go on with --ckpt_path last" in said
    assert gone(child)
    assert finished(root, log="2", ckpt_path="last", **DDP)


def test_the_rest_of_a_rollout_is_saved_by_rank_0(tmp_path: Path) -> None:
    """Written every 10 rollouts only, the state before the loss is on disk all the same."""
    every_ten = DDP | SLOW | {"trainer__callbacks": None}
    root = tmp_path / "run"
    run = Run(root, **every_ten)
    run.until(SECOND)
    time.sleep(1)
    os.kill(run.children()[0], signal.SIGKILL)
    assert run.ended(60) == 75
    assert re.search(r"ended the run after 2 whole rollouts; the state after 2 is in", run.said())
    finished(root, log="2", ckpt_path="last", **every_ten)
    same_run(finished(tmp_path / "whole", **every_ten), root)


@pytest.mark.parametrize(("reward", "words"), [("Fails", "ended with ValueError: a mistake"), ("Hangs", "is scoring")])
def test_a_rank_fails_or_hangs(reward: str, words: str, tmp_path: Path) -> None:
    callbacks = [{"class_path": "RankWatch", "init_args": {"timeout_minutes": 0.1}}]
    run = Run(
        tmp_path / "run",
        **DDP | {"trainer__callbacks": json.dumps(callbacks), "model__validation__at_start": "false"},
        model__reward_model=f"tests.reliability.rewards.{reward}",
    )
    run.until("rollouts/rollout-000000-rank-000.parquet")
    children = run.children()
    assert run.ended(90) == 75, run.said()[-3000:]
    assert words in run.said(), run.said()[-3000:]
    assert "Rank 1 (host" in run.said() or "rank 1 (host" in run.said()
    assert all(gone(pid, 40) for pid in children)


def test_a_launched_process_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """Before the processes know each other, too."""
    run = Run(tmp_path / "run", **DDP)
    deadline = time.monotonic() + 60
    while not run.children():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (child,) = run.children()
    time.sleep(4)
    run.kill()
    assert gone(child, 60)


def test_reports() -> None:
    here = {"rank": 1, "host": "h", "machine": machine(), "beat": 0, "what": "x", "waits": False, "seconds": 1.0}
    mine, nobody = (Report(pid=pid, **here) for pid in (os.getpid(), 2**22 + 1))
    assert not mine.gone()
    assert nobody.gone()
    assert Report.read(mine.text()) == mine
    assert not Report(pid=2**22 + 1, **here | {"machine": "another"}).gone()
    child = os.fork()
    if child == 0:
        os._exit(0)
    time.sleep(0.2)
    assert Report(pid=child, **here).gone()  # a zombie
    os.waitpid(child, 0)
