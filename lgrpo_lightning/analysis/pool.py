"""Runs in processes, several at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Protocol

from lgrpo_lightning.analysis.plan import FINISHED, Run

Start = Callable[[Run], BaseProcess]
"""Starts the process of a run."""
POLL = 0.2
"""Seconds between two looks at the processes."""


class Watcher(Protocol):
    """Who is told of what happens."""

    def begin(self, run: Run) -> None:
        """A run's process is started."""

    def look(self) -> None:
        """Time has passed."""

    def end(self, run: Run, seconds: float, status: int) -> None:
        """A run's process has ended with this exit status."""


def run_all(
    runs: Sequence[Run], start: Start, *, jobs: int, watcher: Watcher, finish: Callable[[Run], None]
) -> list[Run]:
    """Run those that have not finished, ``jobs`` at a time, and ``finish`` each; which of them failed.

    On Ctrl-C every process is asked to stop, saves its state, and is waited for.
    """
    waiting = [run for run in runs if not run.finished]
    going: dict[BaseProcess, tuple[Run, float]] = {}
    failed: list[Run] = []
    try:
        while waiting or going:
            while waiting and len(going) < jobs:
                run = waiting.pop(0)
                watcher.begin(run)
                going[start(run)] = (run, time.monotonic())
            time.sleep(POLL)
            watcher.look()
            for process in [p for p in going if p.exitcode is not None]:
                run, began = going.pop(process)
                process.join()
                if not (status := process.exitcode or 0):
                    (run.folder / FINISHED).touch()
                    finish(run)
                watcher.end(run, time.monotonic() - began, status)
                if status:
                    failed.append(run)
    except BaseException:
        for process in going:
            process.terminate()
        for process in going:
            process.join()
        raise
    return failed
