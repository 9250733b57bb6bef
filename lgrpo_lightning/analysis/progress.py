"""Where a comparison is: a display over all runs, with the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from lgrpo_lightning.analysis.plan import LOG, Run
from lgrpo_lightning.run_folder.names import METRICS, show_path


class ComparisonProgress:
    """On a terminal a bar over all runs and one for each that goes on; in a pipe a line for each that has ended.

    Args:
        runs: All of them, those that have finished before included.
        rollouts: How many rollouts a run has, by run; fewer are known where a configuration does not say.
        jobs: How many go on at a time.
    """

    def __init__(self, runs: Sequence[Run], rollouts: Mapping[Path, int], *, jobs: int) -> None:
        self.runs, self.rollouts, self.jobs = runs, rollouts, jobs
        self.done = self.before = sum(run.finished for run in runs)
        self.going: dict[Path, TaskID] = {}
        self.began = time.monotonic()
        self.partly = 0.0  # what was done of the runs that go on when they were taken up again
        self.console = Console()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.all = self.bars.add_task("all runs", total=len(runs), completed=self.done, left="")

    def __enter__(self) -> ComparisonProgress:
        self.bars.start()
        if self.before:
            self._say(f"{self.before} of {len(self.runs)} runs are done already.")
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def begin(self, run: Run) -> None:
        """A run's process is started."""
        total, done = self.rollouts.get(run.folder), rows(run.folder / METRICS)
        self.partly += done / total if total else 0.0
        self.going[run.folder] = self.bars.add_task(f"  {run.label}", total=total, completed=done, left="")

    def look(self) -> None:
        """Time has passed."""
        if not self.console.is_terminal:
            return
        for folder, task in self.going.items():
            self.bars.update(task, completed=rows(folder / METRICS))
        self.bars.update(self.all, completed=self.done, left=self._left())

    def end(self, run: Run, seconds: float, status: int) -> None:
        """A run's process has ended."""
        self.bars.remove_task(self.going.pop(run.folder))
        self.done += 1
        self.bars.update(self.all, completed=self.done, left=self._left())
        if status:
            log = run.folder / LOG
            self._say(
                f"[{self.done}/{len(self.runs)}] {run.label} FAILED ({status}); see {show_path(log)}:\n"
                f"{last_lines(log)}"
            )
        else:
            left = self._left()
            self._say(
                f"[{self.done}/{len(self.runs)}] {run.label}, {seconds:.0f} s{', ' + left if left else ''}"
            )

    def _left(self) -> str:
        """What is left, by what was done since the start."""
        part = sum(
            min(1.0, rows(folder / METRICS) / total)
            for folder in self.going
            if (total := self.rollouts.get(folder))
        )
        work = self.done - self.before + part - self.partly
        left = len(self.runs) - self.done - part
        if work <= 0.05 or left <= 0:
            return ""
        seconds = (time.monotonic() - self.began) / work * left
        return (
            f"about {seconds / 60:.0f} min left"
            if seconds >= 90
            else f"about {max(1, round(seconds))} s left"
        )

    def _say(self, text: str) -> None:
        if self.console.is_terminal:
            self.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)


def rows(path: Path) -> int:
    """Rollouts in a ``metrics.csv``: its lines but the first."""
    try:
        return max(0, path.read_bytes().count(b"\n") - 1)
    except FileNotFoundError:
        return 0


def last_lines(path: Path, count: int = 3) -> str:
    """The last lines of a log, indented."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return "\n".join(f"    {line[:400]}" for line in lines[-count:])
