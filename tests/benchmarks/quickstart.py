"""The quickstart on several seeds: sampled validation accuracy at the start and at the end, and the time.

    python tests/benchmarks/quickstart.py --seeds 0 1 2 3 4 [--estimator GRPO] [--check] [-- more flags of lgrpo fit]

Prints a table and, last, one line of JSON. ``--check`` fails unless every seed rises from at most 0.55 to at
least 0.80 in at most 180 seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parent.parent.parent
START, END, SECONDS = 0.55, 0.80, 180


def measure(seed: int, config: str, estimator: str, flags: list[str]) -> dict[str, float | str]:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lgrpo_lightning.cli", "fit", f"--config={config}", *flags]
        command += [f"--seed_everything={seed}", f"--model.advantage_estimator={estimator}"]
        started = time.perf_counter()
        subprocess.run([*command, f"--trainer.default_root_dir={folder}"], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        table = pd.read_csv(Path(folder) / "metrics.csv").dropna(subset=["val/avg@k"])
    first, last = table.iloc[0], table.iloc[-1]
    return {
        "seed": seed,
        "estimator": estimator,
        "start": round(float(first["val/avg@k"]), 4),
        "end": round(float(last["val/avg@k"]), 4),
        "greedy_end": round(float(last["val/accuracy"]), 4),
        "seconds": round(seconds, 1),
    }


def main() -> int:
    """Run every seed, print the table, check it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--config", default=str(ROOT / "configs" / "quickstart.yaml"))
    parser.add_argument("--estimator", default="LambdaGRPO")
    parser.add_argument("--check", action="store_true")
    options, flags = parser.parse_known_args()
    print("| seed | estimator | avg@k at the start | avg@k at the end | greedy at the end | seconds |")
    print("|---|---|---|---|---|---|")
    rows = []
    for seed in options.seeds:
        row = measure(seed, options.config, options.estimator, [f for f in flags if f != "--"])
        print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)
        rows.append(row)
    good = all(r["start"] <= START and r["end"] >= END and r["seconds"] <= SECONDS for r in rows)
    print(json.dumps({"benchmark": "quickstart", "good": good, "runs": rows}))
    return 0 if good or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
