"""Reward models that misbehave."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from lgrpo_lightning import Group, ProcessTree, RewardModel
from lgrpo_lightning.types import Progress


class Sleeps(RewardModel):
    """Takes ten minutes."""

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        print("sleeping", flush=True)
        time.sleep(600)
        return torch.zeros(len(group.completions))


class Hangs(RewardModel):
    """Takes for ever on rank 1, at a given call."""

    def __init__(self, rank: int = 1, call: int = 3) -> None:
        self.rank, self.call, self.calls = rank, call, 0

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        self.calls += 1
        if int(os.environ.get("LOCAL_RANK", "0")) == self.rank and self.calls >= self.call:
            time.sleep(600)
        return torch.tensor([float(i) for i in range(len(group.completions))])


class Fails(Hangs):
    """Raises on rank 1, at a given call."""

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        self.calls += 1
        if int(os.environ.get("LOCAL_RANK", "0")) == self.rank and self.calls >= self.call:
            raise ValueError("a mistake in a reward")
        return torch.tensor([float(i) for i in range(len(group.completions))])


class Computes(RewardModel):
    """Is within torch for a minute, from the second rollout on."""

    def __init__(self) -> None:
        self.rollout = 0

    def start(self, progress: Progress) -> None:
        self.rollout = progress.rollout

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        if self.rollout:
            print("computing", flush=True)
            until, square = time.monotonic() + 60, torch.ones(2000, 2000)
            while time.monotonic() < until:
                square = square @ square
        return torch.arange(float(len(group.completions)))


class Exits(RewardModel):
    """Ends the process, as it thinks, with success."""

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        sys.exit(0)


async def stops_and_sleeps(completions: list[str]) -> None:
    """Has the process stopped, and takes ten minutes."""
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(600)


async def leaves_a_thread(completions: list[str]) -> list[float]:
    """Goes on when the run is over."""
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
    return [float(i) for i in range(len(completions))]


class Removes(RewardModel):
    """Does to the folder of the run what somebody tidying up does, something else in each rollout."""

    def __init__(self, folder: str) -> None:
        self.folder, self.rollout = Path(folder), 0

    def start(self, progress: Progress) -> None:
        self.rollout = progress.rollout

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        if self.rollout == 1:
            (self.folder / "metrics.csv").unlink(missing_ok=True)
        if self.rollout == 2 and (self.folder / "checkpoints").is_dir():
            shutil.rmtree(self.folder / "checkpoints")
            (self.folder / "checkpoints").touch()
        if self.rollout == 3 and self.folder.exists():
            self.folder.rename(self.folder.with_name("moved"))
        return torch.tensor([float(i) for i in range(len(group.completions))])


class ClosesOutput(RewardModel):
    """Closes the standard output of the process."""

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        with suppress(OSError):
            os.close(1)
        return torch.tensor([float(i) for i in range(len(group.completions))])
