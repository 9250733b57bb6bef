"""Real runs in processes of their own, to be signalled, killed and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from tests.runs import lgrpo_arguments, rollouts

TWO = {"trainer__devices": 2}
RUN = {
    "trainer__max_steps": 8,
    "trainer__callbacks": json.dumps(
        [{"class_path": "LastCheckpoint", "init_args": {"every_n_rollouts": 1}}]
    ),
    "model__policy__dropout": 0.1,
    "model__updates__iterations": 2,
    "data__train__init_args__count": 6,
    "data__prompts_per_step": 2,
}
"""Four rollouts over two epochs, two updates each, with dropout: every generator and position matters."""
SLOW = {"model__group_size": 40, "model__sampler__init_args__max_batch_tokens": 1}
"""Completions one at a time: a rollout takes a second or more."""
MINUTES = {"model__group_size": 6000, "model__sampler__init_args__max_batch_tokens": 1}
"""A rollout takes minutes."""
TIMES = ("time/", "tokens_per_second")


class Run(subprocess.Popen[str]):
    """``lgrpo fit`` in a process, its output in files of the run's folder."""

    def __init__(
        self, root: Path, *, environment: Mapping[str, str] | None = None, log: str = "log", **options: object
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.log = root, root.parent / f"{root.name}.{log}"
        with self.log.open("w") as out:
            super().__init__(
                [sys.executable, "-m", "lgrpo_lightning.cli", *lgrpo_arguments("fit", root, **options)],
                env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {}),
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def said(self) -> str:
        """All output."""
        return self.log.read_text()

    def ended(self, seconds: float = 240) -> int:
        """Wait for the end; the exit status."""
        try:
            return self.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not over after {seconds} s:\n{self.said()[-3000:]}") from None

    def children(self) -> list[int]:
        """The processes that it launched."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(p) for p in found.read_text().split()] if found.exists() else []

    def until(self, there: str, seconds: float = 120) -> None:
        """Wait for a file of the run, or words in its output."""
        deadline = time.monotonic() + seconds
        while not ((self.root / there).exists() or there in self.said()):
            assert self.poll() is None, f"the run ended too early:\n{self.said()[-3000:]}"
            assert time.monotonic() < deadline, f"no {there}:\n{self.said()[-3000:]}"
            time.sleep(0.005)


def finished(root: Path, **options: object) -> Path:
    """A whole run."""
    run = Run(root, **options)
    assert run.ended() == 0, run.said()[-3000:]
    return root


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
    pd.testing.assert_frame_equal(rollouts(a), rollouts(b), check_exact=True)
    names = sorted(p.name for p in (a / "rollouts").iterdir())
    assert names == sorted(p.name for p in (b / "rollouts").iterdir())
    pd.testing.assert_frame_equal(measured(a), measured(b), check_exact=True)


def measured(root: Path) -> pd.DataFrame:
    """``metrics.csv`` without times, which differ from run to run."""
    table = pd.read_csv(root / "metrics.csv")
    kept = sorted(c for c in table.columns if not c.startswith(TIMES))
    return table[kept].sort_values(["step", "rollout"], ignore_index=True)
