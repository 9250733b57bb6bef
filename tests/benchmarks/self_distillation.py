"""GRPO against self-distillation on sums whose solution only the teacher reads.

    python -m tools.make_arithmetic --begin lgrpo:arithmetic --solved-rate 0.5 --out runs/reader
    python -m tests.benchmarks.self_distillation --model runs/reader [--seeds 0 1 2] [--lr 2e-4] [--rollouts 80]
    python -m tests.benchmarks.self_distillation --table

The model is trained further to answer sums with mistakes, and rightly where their solution stands before them. Finished
runs are lines of ``--raw`` and are not repeated, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lgrpo_lightning import cli
from lgrpo_lightning.monitoring.results import estimate

ROOT = Path(__file__).parent.parent.parent
RAW = ROOT / "docs" / "results" / "raw" / "self_distillation.jsonl"
TEACHER = {"class_path": "TeacherLogprobs", "init_args": {"context": "{solution}{prompt}"}}
ARMS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "GRPO": (["ExactMatch"], {"class_path": "GRPO"}),
    "self-distillation": ([TEACHER, "ExactMatch"], {"class_path": "Distillation", "init_args": {"coefficient": 0.0}}),
    "both": ([TEACHER, "ExactMatch"], {"class_path": "Distillation"}),
}
"""Arm → its rewards and its estimator."""


def run(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run: the reward of every rollout, and its mean over the last ten."""
    rewards, estimator = ARMS[arm]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "config": ROOT / "configs" / "quickstart.yaml", "seed_everything": seed, "data.validation": "null",
            "model.policy.path": options.model, "model.reward_model": json.dumps(rewards),
            "model.advantage_estimator": json.dumps(estimator), "model.optimizer.init_args.lr": options.lr,
            "data.train.init_args.max_term": 25, "data.prompts_per_step": 8, "trainer.max_steps": options.rollouts,
            "trainer.default_root_dir": folder, "trainer.enable_progress_bar": "false",
        }  # fmt: skip
        if cli.main(["fit", *(f"--{key}={value}" for key, value in flags.items())]):
            raise SystemExit(f"{arm}, seed {seed}: the run failed")
        table = pd.read_csv(Path(folder) / "metrics.csv").dropna(subset=["reward"])
    curve = [round(float(value), 4) for value in table["reward"]]
    key = {"arm": arm, "seed": seed, "lr": options.lr, "rollouts": options.rollouts}
    return key | {"reward": float(np.mean(curve[-10:])), "curve": curve, "seconds": time.perf_counter() - started}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Means and paired differences to GRPO with 95 % intervals, over the seeds that have all arms."""
    table = pd.DataFrame(rows).pivot(index=["lr", "rollouts", "seed"], columns="arm", values="reward")
    print("| learning rate | rollouts | arm | seeds | reward | difference to GRPO |\n|---|---|---|---|---|---|")
    for (lr, rollouts), cell in table.groupby(level=["lr", "rollouts"]):
        cell = cell.dropna()
        for arm in cell.columns:
            difference = "" if arm == "GRPO" else estimate([*(cell[arm] - cell["GRPO"])])
            print(f"| {lr:g} | {rollouts} | {arm} | {len(cell)} | {estimate([*cell[arm]])} | {difference} |")


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/reader")
    parser.add_argument("--raw", type=Path, default=RAW)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(8)])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--rollouts", type=int, default=80)
    parser.add_argument("--table", action="store_true", help="print the table of the runs that there are, and no more")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.raw.read_text().splitlines()] if options.raw.exists() else []
    done = {(r["arm"], r["seed"], r["lr"], r["rollouts"]) for r in rows}
    for seed in [] if options.table else options.seeds:
        for arm in options.arms:
            if (arm, seed, options.lr, options.rollouts) not in done:
                rows.append(run(arm, seed, options))
                with options.raw.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
