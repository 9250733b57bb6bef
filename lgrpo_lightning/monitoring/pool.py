"""The runs of a comparison in processes, several at a time, and a display of how far they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lgrpo_lightning.monitoring.plan import FINISHED, LOG, Run
from lgrpo_lightning.rollouts.names import METRICS, format_duration, show_path

POLL = 0.2
"""Seconds between two looks at the processes."""


def run_all(
    runs: Sequence[Run],
    start: Callable[[Run], BaseProcess],
    *,
    jobs: int,
    rollouts: Mapping[Path, int],
    finish: Callable[[Run], None],
) -> list[Run]:
    """Run those that have not finished, ``jobs`` at a time, and ``finish`` each; which of them failed.

    On Ctrl-C every process is asked to stop, saves its state, and is waited for.

    Args:
        start: Starts the process of a run.
        rollouts: How many rollouts a run has, by its folder; 0 where its configuration does not say.
    """
    waiting = [run for run in runs if not run.finished]
    going: dict[BaseProcess, tuple[Run, float]] = {}
    failed: list[Run] = []
    with ComparisonProgress(runs, rollouts) as progress:
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
                    if process.exitcode:
                        failed.append(run)
                    else:
                        (run.folder / FINISHED).touch()  # before its checkpoints may be removed
                        finish(run)
                    progress.end(run, time.monotonic() - began, process.exitcode or 0)
        except BaseException:
            for process in going:
                process.terminate()
            for process in going:
                process.join()
            raise
    return failed


class ComparisonProgress:
    """On a terminal a bar over all runs and one for each that goes on; in a pipe a line for each that has ended."""

    def __init__(self, runs: Sequence[Run], rollouts: Mapping[Path, int]) -> None:
        self.runs, self.rollouts = runs, rollouts
        self.done = sum(run.finished for run in runs)
        self.going: dict[Path, TaskID] = {}
        self.console = Console()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            speed_estimate_period=3600,  # runs are long, and the first rollouts of one slow
            disable=not self.console.is_terminal,
        )
        self.all = self.bars.add_task("all runs", total=len(runs), completed=self.done)

    def __enter__(self) -> ComparisonProgress:
        self.bars.start()
        if self.done:
            self._say(f"{self.done} of {len(self.runs)} runs are done already.")
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def begin(self, run: Run) -> None:
        """A run's process is started."""
        total = self.rollouts[run.folder] or None
        self.going[run.folder] = self.bars.add_task(f"  {run.label}", total=total)

    def update(self) -> None:
        """Show how far the runs are."""
        part = 0.0
        for folder, task in self.going.items():
            rows, total = _count_rows(folder / METRICS), self.rollouts[folder]
            self.bars.update(task, completed=rows)
            part += min(1.0, rows / total) if total else 0.0
        self.bars.update(self.all, completed=self.done + part)

    def end(self, run: Run, seconds: float, status: int) -> None:
        """A run's process has ended."""
        self.bars.remove_task(self.going.pop(run.folder))
        self.done += 1
        self.update()
        what, log = f"[{self.done}/{len(self.runs)}] {run.label}", run.folder / LOG
        left = next(task.time_remaining for task in self.bars.tasks if task.id == self.all)
        if status:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
            end = "".join(f"\n    {line[:400]}" for line in lines[-3:])
            self._say(f"{what} FAILED ({status}); see {show_path(log)}:{end}")
        else:
            self._say(f"{what}, {seconds:.0f} s{f', about {format_duration(left)} left' if left else ''}")

    def _say(self, text: str) -> None:
        if self.console.is_terminal:
            self.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)


def _count_rows(path: Path) -> int:
    """Rollouts in a ``metrics.csv``: its lines but the first."""
    try:
        return max(0, path.read_bytes().count(b"\n") - 1)
    except FileNotFoundError:
        return 0
