"""Processes forked off one that has imported everything, which saves the seconds in which each would import it."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

FORKS: Any = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([
    "lgrpo_lightning.commands.run", "lgrpo_lightning.builtin", "pandas", "pyarrow.parquet", "matplotlib.figure",
    "torch.distributed.fsdp", "torch.distributed.checkpoint", "transformers.models.llama.modeling_llama",
    "tensorboard.summary.writer.event_file_writer", "tests.recorded.run",
])  # fmt: skip


class Fork:
    """``call(*arguments)`` in a process, its output at the end of the file ``log``."""

    def __init__(self, log: Path, call: Callable[..., object], *arguments: object, **environment: str) -> None:
        log.touch()
        self.log = log
        self.process = FORKS.Process(
            target=_work, args=(call, arguments, str(log), {"OMP_NUM_THREADS": "1"} | environment)
        )
        self.process.start()
        self.pid: int = self.process.pid

    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        status: int | None = self.process.exitcode
        return status

    def said(self) -> str:
        """All output."""
        return self.log.read_text()


def _work(call: Callable[..., object], arguments: Sequence[Any], log: str, environment: dict[str, str]) -> None:
    """In the new process."""
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(environment)
    faulthandler.enable(out)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # the server it is forked off has read its own
    call(*arguments)


def lgrpo(words: Sequence[str]) -> None:
    """Be ``lgrpo WORDS``."""
    from lgrpo_lightning import cli

    sys.argv = ["lgrpo", *words]
    sys.exit(cli.main(list(words)))


def rank_environments(processes: int) -> list[dict[str, str]]:
    """What torchrun says to each of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "tests",
    }  # fmt: skip
    return [shared | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(processes)]


def ranks(processes: int, call: Callable[..., object], *arguments: object, seconds: float = 240) -> str:
    """Run ``call(*arguments)`` in several processes, as torchrun starts them; what they printed."""
    folder = Path(tempfile.mkdtemp())
    forks = [
        Fork(folder / f"{r}.log", call, *arguments, **environment)
        for r, environment in enumerate(rank_environments(processes))
    ]
    until = time.monotonic() + seconds
    while any(fork.status() is None for fork in forks):
        if any(fork.status() for fork in forks):
            until = min(until, time.monotonic() + 10)  # the others notice, and say what they know
        if time.monotonic() > until:
            for fork in forks:
                if fork.status() is None:
                    os.kill(fork.pid, signal.SIGKILL)
        time.sleep(0.02)
    said = "".join(fork.said()[-5000:] for fork in forks)
    assert not any(fork.status() for fork in forks), said
    shutil.rmtree(folder)
    return said


def commands(words: Sequence[Sequence[object]]) -> str:
    """Run commands of ``lgrpo`` one after the other in the same two processes; what they printed."""
    return ranks(2, main, [[str(w) for w in command] for command in words])


def main(words: Sequence[Sequence[str]]) -> None:
    """Be several commands of ``lgrpo`` one after the other."""
    from lgrpo_lightning import cli

    for command in words:
        if status := cli.main(list(command)):
            sys.exit(status)


def torchrun(words: Sequence[str]) -> str:
    """Run a command of ``lgrpo`` in two processes that torchrun itself starts; what they printed."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
         "-m", "lgrpo_lightning.cli", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr
