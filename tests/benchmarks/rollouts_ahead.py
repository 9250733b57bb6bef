"""How long a rollout takes with rewards that wait, with and without rollouts ahead; a real vLLM server.

    python tests/benchmarks/rollouts_ahead.py                  # 2 s a rollout, 0, 1 and 2 ahead, seeds 0-2
    python tests/benchmarks/rollouts_ahead.py --wait 1 --ahead 0 1 --rollouts 20 --seeds 0

The quickstart's task, where a reward waits; seconds are medians over the rollouts after the third. Needs vLLM.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.runs import lgrpo_arguments, metrics
from tests.samplers.vllm.engines import KEY, RealServer


async def waits(completions: list[str], wait: float, **columns: object) -> list[float]:
    """Nothing, after so many seconds."""
    import asyncio

    await asyncio.sleep(wait)
    return [0.0] * len(completions)


def one(root: Path, url: str, ahead: int, seed: int, asked: argparse.Namespace) -> pd.DataFrame:
    """The metrics of one run."""
    from lgrpo_lightning import cli

    waiting = {
        "class_path": "RewardFunction",
        "init_args": {"function": "tests.benchmarks.rollouts_ahead.waits", "kwargs": {"wait": asked.wait}},
    }
    options = {
        "seed_everything": seed,
        "trainer.max_steps": asked.rollouts,
        "trainer.limit_val_batches": None,
        "trainer.val_check_interval": asked.rollouts,
        "data.prompts_per_step": 16,
        "data.train.init_args.count": None,
        "data.validation.init_args.count": 200,
        "model.group_size": 8,
        "model.sampling.max_new_tokens": 48,
        "model.schedule.warmup_steps": 10,
        "model.sampler": {"class_path": "VLLMSampler", "init_args": {"server": {"urls": [url]}}},
        "model.reward_model": ["ExactMatch", waiting],
        "model.updates.rollouts_ahead": ahead,
    }
    flat = {key.replace(".", "__"): value for key, value in options.items()}
    assert cli.main(lgrpo_arguments("fit", root, **flat)) == 0
    return metrics(root)


def main() -> None:
    """Print one row a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wait", type=float, default=2.0, help="seconds that the reward of a rollout waits")
    parser.add_argument("--ahead", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rollouts", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    os.environ["VLLM_API_KEY"] = KEY
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        server = RealServer("lgrpo:arithmetic", Path(folder)).start()
        try:
            for seed in asked.seeds:
                for ahead in asked.ahead:
                    began = time.perf_counter()
                    table = one(Path(folder) / f"{ahead}-{seed}", server.url, ahead, seed, asked)
                    later = table[table["rollout"] > 2]
                    times = {c: later[f"time/{c}"].median() for c in ("sample", "reward", "train", "step")}
                    right = table["val/accuracy"].dropna().iloc[-1]
                    rows.append({"ahead": ahead, "seed": seed, **times, "val/accuracy": right,
                                 "whole run": time.perf_counter() - began})  # fmt: skip
                    print(rows[-1], flush=True)
        finally:
            server.kill()
    found = pd.DataFrame(rows)
    print(found.round(3).to_string(index=False))
    print(found.groupby("ahead").agg(["mean", "std"]).round(3).to_string())


if __name__ == "__main__":
    main()
