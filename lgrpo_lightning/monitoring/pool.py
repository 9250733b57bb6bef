"""Runs in processes, several at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess

from lgrpo_lightning.monitoring.plan import FINISHED, Run
from lgrpo_lightning.monitoring.progress import ComparisonProgress

Start = Callable[[Run], BaseProcess]
"""Starts the process of a run."""
POLL = 0.2
"""Seconds between two looks at the processes."""


def run_all(
    runs: Sequence[Run],
    start: Start,
    *,
    jobs: int,
    progress: ComparisonProgress,
    finish: Callable[[Run], None],
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
                progress.begin(run)
                going[start(run)] = (run, time.monotonic())
            time.sleep(POLL)
            progress.update()
            for process in [p for p in going if p.exitcode is not None]:
                run, began = going.pop(process)
                process.join()
                if not (status := process.exitcode or 0):
                    (run.folder / FINISHED).touch()  # before its checkpoints may be removed
                    finish(run)
                progress.end(run, time.monotonic() - began, status)
                if status:
                    failed.append(run)
    except BaseException:
        for process in going:
            process.terminate()
        for process in going:
            process.join()
        raise
    return failed
