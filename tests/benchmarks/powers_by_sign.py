"""Arms that weigh shared steps by the sign of their advantage, against GRPO and λ-GRPO, each at its best learning rate.

    python tests/benchmarks/powers_by_sign.py --cell toy-adam toy-sgd sums-16 [--arm GRPO "blame 1"] [--minutes 30]
    python tests/benchmarks/powers_by_sign.py --cell toy-adam --table

An arm's rates run on tuning seeds, from the middle of the list up or down until the neighbours of the best are worse;
the best one of each setting then runs on ``--seeds``. Finished runs are lines of
``docs/results/raw/powers-by-sign/CELL.jsonl`` and are not repeated, so the same command goes on where it was stopped,
and takes more seeds. The cells of the toy are computed in batches (``batched_toy.py``), sums by ``lgrpo fit``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tests.benchmarks.batched_toy import LEAVES, TARGET, Arm, leaf_rewards, train

ROOT = Path(__file__).parent.parent.parent
RAW = ROOT / "docs" / "results" / "raw" / "powers-by-sign"
ARMS = {
    "GRPO": Arm(),
    "λ-GRPO": Arm(blame=1.0, praise=1.0),
    "blame 1": Arm(blame=1.0),
    "GTPO, factor 2": Arm(factor=2.0),
    "GTPO, factor 1": Arm(factor=1.0),
    "praise 1": Arm(praise=1.0),
    "power 0.5": Arm(blame=0.5, praise=0.5),
    "blame 0.5": Arm(blame=0.5),
    "blame 1, praise 0.5": Arm(blame=1.0, praise=0.5),
    "GTPO, factor 1, power 1": Arm(blame=1.0, praise=1.0, factor=1.0),
}
Job = tuple[str, str, int]
"""(setting, arm, seed)."""
Runner = Callable[[Sequence[Job], float], Iterator[tuple[Sequence[Job], list[float]]]]
"""Gives the measured values of as many jobs as it likes at a time, all at one learning rate."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A task: its settings, the learning rates that are tried, the seeds they are tried on, and what runs it."""

    settings: Sequence[str]
    rates: Sequence[float]
    tuning: Sequence[int]
    run: Runner


def toy(
    optimizer: str, rates: Sequence[float], *, tuning: int = 6, rollouts: int = 250, batch: int = 60, **options: Any
) -> Cell:
    """The paper's toy in its six settings; measured is the rate of the target over the last fifth."""
    cells = {f"shared={s}, penalty={p:g}": leaf_rewards(s, p) for s, p in product((1, 2), (-0.5, -1.0, -1.5))}

    def run(jobs: Sequence[Job], rate: float) -> Iterator[tuple[Sequence[Job], list[float]]]:
        for start in range(0, len(jobs), batch):
            part = jobs[start : start + batch]
            runs = [(seed, cells[setting], ARMS[arm]) for setting, arm, seed in part]
            leaves = train(runs, rate, optimizer=getattr(torch.optim, optimizer), rollouts=rollouts, **options)
            last = leaves[:, -max(1, rollouts // 5) :]
            yield part, (last == LEAVES.index(TARGET)).float().mean((1, 2)).tolist()

    return Cell(settings=list(cells), rates=rates, tuning=range(1000, 1000 + tuning), run=run)


def sums(group_size: int, max_term: int = 25) -> Cell:
    """The quickstart's sums, 64 completions a rollout; measured is the reward over the last 10 of 80 rollouts."""

    def run(jobs: Sequence[Job], rate: float) -> Iterator[tuple[Sequence[Job], list[float]]]:
        from lgrpo_lightning import cli

        for job in jobs:
            options = {
                "config": ROOT / "configs" / "quickstart.yaml",
                "seed_everything": job[2],
                "trainer.max_steps": 80,
                "trainer.enable_progress_bar": "false",
                "trainer.enable_checkpointing": "false",
                "data.validation": "null",
                "data.train.init_args.max_term": max_term,
                "data.prompts_per_step": 64 // group_size,
                "model.group_size": group_size,
                "model.optimizer.init_args.lr": rate,
                "model.advantage_estimator": json.dumps(ARMS[job[1]].config),
            }
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
                words = [f"--{key}={value}" for key, value in options.items()]
                assert cli.main(["fit", *words, f"--trainer.default_root_dir={folder}"]) == 0
                rewards = pd.read_csv(Path(folder) / "metrics.csv")["reward"].dropna()
            yield [job], [float(rewards.iloc[-10:].mean())]

    return Cell(settings=["sums"], rates=(5e-5, 1e-4, 2e-4, 4e-4, 8e-4), tuning=(1000, 1001), run=run)


TABLE: dict[str, Any] = {"table": True, "batch": 1200, "tuning": 40}
ADAM, SGD = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4), (0.003, 0.01, 0.03, 0.1)
TABLE_ADAM = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
TABLE_SGD = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
CELLS: dict[str, Callable[[], Cell]] = {
    "table-adam": lambda: toy("Adam", TABLE_ADAM, **TABLE),
    "table-sgd": lambda: toy("SGD", TABLE_SGD, **TABLE),
    "table-adam-iterations-2": lambda: toy("Adam", TABLE_ADAM, **TABLE, iterations=2),
    "table-adam-ahead-1": lambda: toy("Adam", TABLE_ADAM, **TABLE, ahead=1),
    "toy-adam": lambda: toy("Adam", ADAM),
    "toy-sgd": lambda: toy("SGD", SGD),
    "sums-16": lambda: sums(16),
    "sums-4": lambda: sums(4),
}


def read(path: Path) -> pd.DataFrame:
    """One row a finished run: setting, arm, rate, seed, value."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rows = [
        {**{key: line[key] for key in ("setting", "arm", "lr")}, "seed": seed, "value": value}
        for line in lines
        for seed, value in zip(line["seeds"], line["values"], strict=True)
    ]
    return pd.DataFrame(rows, columns=["setting", "arm", "lr", "seed", "value"])


def complete(path: Path, cell: Cell, rate: float, jobs: Sequence[Job], deadline: float) -> None:
    """Run the jobs that have no line in the file."""
    table = read(path)
    here = table[table["lr"] == rate]
    done = set(zip(here["setting"], here["arm"], here["seed"], strict=True))
    missing = [job for job in jobs if job not in done]
    for part, values in cell.run(missing, rate) if missing else ():
        with path.open("a") as file:
            for setting, arm in dict.fromkeys((s, a) for s, a, _ in part):
                own = [(j[2], round(v, 4)) for j, v in zip(part, values, strict=True) if j[:2] == (setting, arm)]
                seeds, rounded = zip(*own, strict=True)
                line = {"setting": setting, "arm": arm, "lr": rate, "seeds": seeds, "values": rounded}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if time.monotonic() > deadline:
            raise TimeoutError


def tune(table: pd.DataFrame, cell: Cell) -> dict[tuple[str, str], tuple[float, list[float]]]:
    """(setting, arm) → the rate with the best mean over the tuning seeds, and its neighbours that have not run."""
    means = table[table["seed"].isin(cell.tuning)].groupby(["setting", "arm", "lr"])["value"].agg(["mean", "count"])
    means = means[means["count"] == len(cell.tuning)]["mean"].unstack()
    chosen = {}
    for key, row in means.iterrows():
        at = cell.rates.index(best := float(row.idxmax()))
        near = cell.rates[max(0, at - 1) : at + 2]
        chosen[key] = best, [rate for rate in near if rate not in row.dropna().index]
    return chosen


def measure(path: Path, cell: Cell, arms: Sequence[str], seeds: Sequence[int], deadline: float) -> None:
    """Tune arms from the middle of the rates up or down, and run them on the seeds at the best rate of each setting."""
    wanted = {key: [cell.rates[(len(cell.rates) - 1) // 2]] for key in product(cell.settings, arms)}
    while any(wanted.values()):
        for rate in cell.rates:
            jobs = [(*key, seed) for key in wanted if rate in wanted[key] for seed in cell.tuning]
            complete(path, cell, rate, jobs, deadline)
        tuned = tune(read(path), cell)
        wanted = {key: tuned[key][1] for key in wanted}
    for rate in cell.rates:
        complete(
            path, cell, rate, [(*key, seed) for key in wanted if tuned[key][0] == rate for seed in seeds], deadline
        )


def tabulate(table: pd.DataFrame, cell: Cell, seeds: Sequence[int]) -> list[dict[str, object]]:
    """One row a setting and arm; last the mean over settings, where there are several. Paired by seed with GRPO."""
    from lgrpo_lightning.monitoring.results import estimate

    best = {key: rate for key, (rate, untried) in tune(table, cell).items() if not untried}
    measured = table[table["seed"].isin(seeds)].set_index(["setting", "arm", "lr", "seed"])["value"].sort_index()
    chosen = {key: measured.loc[(*key, rate)] for key, rate in best.items() if (*key, rate) in measured.index}
    for arm in ARMS if len(cell.settings) > 1 else ():
        own = [chosen[setting, arm] for setting in cell.settings if (setting, arm) in chosen]
        if len(own) == len(cell.settings):
            chosen["mean", arm] = pd.concat(own, axis=1).dropna().mean(axis=1)
    rows: list[dict[str, object]] = []
    for setting, arm in product([*cell.settings, "mean"], ARMS):
        if (setting, arm) in chosen and (setting, "GRPO") in chosen:
            values = chosen[setting, arm]
            difference = (values - chosen[setting, "GRPO"]).dropna()
            against = "" if arm == "GRPO" else f"{(d := estimate(difference.tolist())).mean:+.3f} ± {d.half:.3f}"
            rate = f"{best[setting, arm]:g}" if (setting, arm) in best else ""
            rate += " (end of the rates)" * (best.get((setting, arm)) in (cell.rates[0], cell.rates[-1]))
            rows.append({"setting": setting, "arm": arm, "learning rate": rate, "seeds": len(values),
                         "value": str(estimate(values.tolist())), "difference to GRPO": against})  # fmt: skip
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--arm", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=20, help="how many, from 0")
    parser.add_argument("--minutes", type=float, default=60.0, help="when to stop")
    parser.add_argument("--raw", type=Path, default=RAW, help="folder of the finished runs")
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args(words)
    deadline, seeds = time.monotonic() + 60 * options.minutes, range(options.seeds)
    options.raw.mkdir(parents=True, exist_ok=True)
    for name in options.cell:
        cell, path = CELLS[name](), options.raw / f"{name}.jsonl"
        with contextlib.suppress(TimeoutError):
            if not options.table:
                measure(path, cell, options.arm, seeds, deadline)
        rows = tabulate(read(path), cell, seeds)
        head: list[object] = list(rows[0]) if rows else []
        print(f"\n{name}\n", *(show(line) for line in (head, ["---"] * len(head))), sep="\n")
        print(*(show(list(row.values())) for row in rows), sep="\n", flush=True)


def show(cells: Sequence[object]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
