"""Where a comparison is: a display over all runs, with the time left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lgrpo_lightning.monitoring.plan import LOG, Run
from lgrpo_lightning.rollouts.names import METRICS, format_duration, show_path


class ComparisonProgress:
    """On a terminal a bar over all runs and one for each that goes on; in a pipe a line for each that has ended.

    Args:
        runs: All of them, those that have finished before included.
        rollouts: How many rollouts a run has, by run; fewer are known where a configuration does not say.
    """

    def __init__(self, runs: Sequence[Run], rollouts: Mapping[Path, int]) -> None:
        self.runs, self.rollouts = runs, rollouts
        self.done = self.before = sum(run.finished for run in runs)
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
        if self.before:
            self._say(f"{self.before} of {len(self.runs)} runs are done already.")
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def begin(self, run: Run) -> None:
        total, done = self.rollouts.get(run.folder), count_rows(run.folder / METRICS)
        self.going[run.folder] = self.bars.add_task(f"  {run.label}", total=total, completed=done)

    def update(self) -> None:
        """Show how far the runs are."""
        part = 0.0
        for folder, task in self.going.items():
            rows, total = count_rows(folder / METRICS), self.rollouts.get(folder)
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
            self._say(f"{what} FAILED ({status}); see {show_path(log)}:\n{read_end(log)}")
        else:
            self._say(f"{what}, {seconds:.0f} s{f', about {format_duration(left)} left' if left else ''}")

    def _say(self, text: str) -> None:
        if self.console.is_terminal:
            self.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)


def count_rows(path: Path) -> int:
    """Rollouts in a ``metrics.csv``: its lines but the first."""
    try:
        return max(0, path.read_bytes().count(b"\n") - 1)
    except FileNotFoundError:
        return 0


def read_end(path: Path, count: int = 3) -> str:
    """The last lines of a log, indented."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return "\n".join(f"    {line[:400]}" for line in lines[-count:])
