"""Where a rank is gone or hangs, the others say which one and what it was doing, and end."""

import json
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lgrpo_lightning.distributed.watch import Report
from tests.reliability.processes import MINUTES, RUN, SLOW, TWO, Launched, finished_pair, gone, pair, same_run

SECOND = "rollouts/rollout-000001-rank-000.parquet"
DDP = RUN | {"trainer__strategy": "ddp"}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes after one rollout."""
    return finished_pair(tmp_path_factory.mktemp("begun") / "run", **DDP | {"trainer__max_steps": 2})


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_is_killed_in_the_middle_of_sampling(victim: int, begun: Path, tmp_path: Path) -> None:
    root, other = tmp_path / "run", 1 - victim
    shutil.copytree(begun, root)
    both = pair(root, ckpt_path="last", **DDP | MINUTES)
    both[0].until("Restored all states")
    time.sleep(3)
    both[victim].signalled(signal.SIGKILL)
    killed = time.monotonic()
    assert both[other].ended(60) == 75, both[other].said()[-3000:]
    assert time.monotonic() - killed < 20
    said = both[other].said()
    assert re.search(rf"lgrpo: Rank {victim} \(host \S+, process {both[victim].pid}\)", said), said[-2000:]
    assert re.search(r"It was sampling rollout 1 \(for \d+ s\)", said)
    assert f"This is rank {other}, sampling rollout 1" in said
    assert "resume with --ckpt_path last" in said
    finished_pair(root, log="2", ckpt_path="last", **DDP | {"trainer__max_steps": 4})


@pytest.mark.slow
def test_what_rank_0_holds_is_saved_when_another_is_lost(tmp_path: Path) -> None:
    """Written every 10 rollouts only, the state before the loss is on disk all the same."""
    every_ten = DDP | SLOW | {"trainer__callbacks": None}
    root = tmp_path / "run"
    both = pair(root, **every_ten)
    both[0].until(SECOND)
    time.sleep(1)
    both[1].signalled(signal.SIGKILL)
    assert both[0].ended(60) == 75, both[0].said()[-3000:]
    assert "ended the run after 2 whole rollouts; the state after 2 is in" in both[0].said()
    finished_pair(root, log="2", ckpt_path="last", **every_ten)
    same_run(finished_pair(tmp_path / "whole", **every_ten), root)


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ("Fails", "ended with ValueError: a mistake"),
        pytest.param("Hangs", "is scoring", marks=pytest.mark.slow),
    ],
)
def test_a_rank_fails_or_hangs(reward: str, words: str, tmp_path: Path) -> None:
    callbacks = [{"class_path": "RankWatch", "init_args": {"timeout_minutes": 0.1}}]
    both = pair(
        tmp_path / "run",
        **DDP | {"trainer__callbacks": json.dumps(callbacks)},
        model__reward_model=f"tests.reliability.rewards.{reward}",
    )
    both[0].until("rollouts/rollout-000000-rank-000.parquet")
    assert both[0].ended(90) == 75, both[0].said()[-3000:]
    assert words in both[0].said(), both[0].said()[-3000:]
    assert re.search(r"[Rr]ank 1 \(host", both[0].said())
    assert both[1].ended(90) == {"Fails": 1, "Hangs": 75}[reward], both[1].said()[-3000:]


@pytest.mark.slow
def test_the_processes_that_a_run_launched_end_with_it(begun: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(begun, root)
    run = Launched(root, ckpt_path="last", **DDP | TWO | MINUTES)
    run.until("Restored all states")
    (child,) = run.children()
    time.sleep(3)
    run.signalled(signal.SIGKILL)
    assert gone(child, 60)
    assert "lgrpo: Rank 0 (host" in run.said()


@pytest.mark.slow
def test_a_launched_process_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """Before the processes know each other, too."""
    run = Launched(tmp_path / "run", **DDP, **TWO)
    deadline = time.monotonic() + 60
    while not run.children():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (child,) = run.children()
    time.sleep(4)
    run.signalled(signal.SIGKILL)
    assert gone(child, 60)


def test_reports() -> None:
    mine = Report.from_this_process(1)
    nobody = replace(mine, pid=2**22 + 1)
    assert not mine.gone
    assert nobody.gone
    assert not replace(nobody, machine="another").gone
    child = os.fork()
    if child == 0:
        os._exit(0)
    time.sleep(0.2)
    assert replace(mine, pid=child).gone  # a zombie
    os.waitpid(child, 0)
