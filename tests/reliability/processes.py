"""Real runs in processes of their own, to be signalled, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from lgrpo_lightning.rollouts.queue import EARLIER
from tests.runs import fit, lgrpo_arguments, rollouts, train_metrics
from tests.several import Fork, rank_environments
from tests.several import lgrpo as be_lgrpo

TWO = {"trainer__devices": 2}
RUN = {
    "trainer__max_steps": 8,
    "trainer__callbacks": json.dumps([{"class_path": "LastCheckpoint", "init_args": {"every_n_rollouts": 1}}]),
    "model__policy__dropout": 0.1,
    "model__updates__iterations": 2,
    "data__train__init_args__count": 6,
    "data__prompts_per_step": 2,
}
"""Four rollouts over two epochs, two updates each, with dropout: every generator and position matters."""
SLOW = {
    "trainer__max_steps": 6,
    "data__train__init_args__count": 4,
    "model__group_size": 8,
    "model__sampler__init_args__max_batch_tokens": 1,
}
"""Completions one at a time: a rollout takes about a second or more. Three rollouts, still over two epochs."""
IN_SAMPLING = 0.4
"""Seconds after a ``SLOW`` rollout was written in which its updates are over and the next one is being sampled."""
MINUTES = {"model__group_size": 6000, "model__sampler__init_args__max_batch_tokens": 1}
"""A rollout takes minutes."""
TIMES = ("time/", "tokens_per_second")


class Running:
    """``lgrpo fit`` in a process, its output in a file beside the run's folder."""

    pid: int

    def __init__(self, root: Path, log: str) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.log = root, root.parent / f"{root.name}.{log}.log"
        self.log.touch()

    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        raise NotImplementedError

    def said(self) -> str:
        """All output."""
        return self.log.read_text()

    def signalled(self, signum: int) -> None:
        """Send a signal."""
        os.kill(self.pid, signum)

    def ended(self, seconds: float = 300) -> int:
        """Wait for the end; the exit status."""
        deadline = time.monotonic() + seconds
        while (status := self.status()) is None:
            if time.monotonic() > deadline:
                self.signalled(signal.SIGKILL)
                raise AssertionError(f"not over after {seconds} s:\n{self.said()[-3000:]}")
            time.sleep(0.01)
        return status

    def until(self, there: str, seconds: float = 200) -> None:
        """Wait for a file of the run, or words in its output."""
        deadline = time.monotonic() + seconds
        while not ((self.root / there).exists() or there in self.said()):
            assert self.status() is None, f"the run ended too early:\n{self.said()[-3000:]}"
            assert time.monotonic() < deadline, f"no {there}:\n{self.said()[-3000:]}"
            time.sleep(0.005)


class Run(Running):
    """A process forked off one that has imported everything."""

    def __init__(
        self, root: Path, *, environment: Mapping[str, str] | None = None, log: str = "1", **options: object
    ) -> None:
        super().__init__(root, log)
        fork = Fork(self.log, be_lgrpo, lgrpo_arguments("fit", root, **options), **(environment or {}))
        self.process, self.pid, self.status = fork.process, fork.pid, fork.status  # type: ignore[method-assign]


class Launched(Running):
    """A command of its own, whose Trainer launches the other processes of the run."""

    def __init__(self, root: Path, *, log: str = "1", **options: object) -> None:
        super().__init__(root, log)
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lgrpo_lightning.cli", *lgrpo_arguments("fit", root, **options)],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.pid = self.process.pid

    def status(self) -> int | None:
        """The exit status."""
        return self.process.poll()

    def children(self) -> list[int]:
        """The processes that it launched."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(p) for p in found.read_text().split()] if found.exists() else []


def pair(root: Path, *, log: str = "1", second: Mapping[str, object] | None = None, **options: object) -> list[Run]:
    """Two processes of one run, started one by one as torchrun does; ``second`` are other options of rank 1."""
    return [
        Run(
            root,
            log=f"{log}.rank{r}",
            environment=environment,
            **TWO | options | ((second or {}) if r else {}),
        )
        for r, environment in enumerate(rank_environments(2))
    ]


def finished_pair(root: Path, **options: object) -> Path:
    """A whole run of two processes."""
    both = pair(root, **options)
    assert [run.ended() for run in both] == [0, 0], "".join(run.said()[-3000:] for run in both)
    return root


def finished(root: Path, **options: object) -> Path:
    """A whole run."""
    run = Run(root, **options)
    assert run.ended() == 0, run.said()[-3000:]
    return root


def check_two_processes(root: Path, *metrics: str, **options: object) -> Path:
    """Assert that a run in two processes has the rollouts and ``metrics`` of one in this process, which is given."""
    options = {"model__optimizer__init_args__eps": 1e-5} | options
    one = fit(root / "one", **options)
    two = finished_pair(root / "two", trainer__strategy="ddp", **options)
    a, b = rollouts(one), rollouts(two)
    pd.testing.assert_frame_equal(a, b, check_exact=False, atol=1e-4)
    assert list(a["completion"]) == list(b["completion"])
    for name in metrics:
        left, right = (torch.tensor(train_metrics(r)[name].to_numpy()) for r in (one, two))
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5, msg=name)
    return one


def check_kill_and_resume(root: Path, rollout: int, **options: object) -> Path:
    """Assert that a run which is killed after a rollout and resumed equals one that is not, which is given."""
    whole = finished(root / "whole", **options)
    run = Run(root / "cut", **options)
    run.until(f"rollouts/rollout-{rollout:06d}-rank-000.parquet")
    run.signalled(signal.SIGKILL)
    run.process.join()
    same_run(whole, finished(root / "cut", log="2", ckpt_path="last", **options))
    return whole


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process is over, by then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X"):
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def same(a: object, b: object, path: str = "") -> None:
    """Equal to the bit, however nested."""
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        assert torch.equal(a, b), path
    elif isinstance(a, Mapping):
        assert isinstance(b, Mapping)
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert isinstance(b, (list, tuple))
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}/{i}")
    else:
        assert a == b, f"{path}: {a} {b}"


def same_run(a: Path, b: Path) -> None:
    """The same weights, optimizer, schedule, generators, rollouts and metrics, to the bit."""
    left, right = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=True) for r in (a, b))
    for part in (
        "state_dict",
        "optimizer_states",
        "lr_schedulers",
        "lgrpo",
        "global_step",
        "PromptDataModule",
    ):
        same(left[part], right[part], part)
    same(left.get(EARLIER), right.get(EARLIER), EARLIER)
    pd.testing.assert_frame_equal(rollouts(a), rollouts(b), check_exact=True)
    names = sorted(p.name for p in (a / "rollouts").iterdir())
    assert names == sorted(p.name for p in (b / "rollouts").iterdir())
    pd.testing.assert_frame_equal(measured(a), measured(b), check_exact=True)


def measured(root: Path) -> pd.DataFrame:
    """``metrics.csv`` without times, which differ from run to run."""
    table = pd.read_csv(root / "metrics.csv")
    kept = sorted(c for c in table.columns if not c.startswith(TIMES))
    return table[kept].sort_values(["step", "rollout"], ignore_index=True)
