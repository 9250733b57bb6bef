"""Made-up logs of runs, one for each thing that can be wrong, and of healthy ones.

python -m tests.monitoring.sick_runs FOLDER      writes them all, to be looked at with lgrpo doctor
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pandas
import yaml

Series = Callable[[int], dict[str, float]]
ROLLOUTS = 120

HEALTHY: dict[str, float] = {
    "reward": 0.4,
    "reward_std": 0.3,
    "entropy": 0.6,
    "kl": 0.02,
    "completions/mean_length": 80.0,
    "completions/clipped_ratio": 0.02,
    "frac_reward_zero_std": 0.3,
    "groups/all_right": 0.15,
    "groups/all_wrong": 0.15,
    "rewards/not_applicable": 0.0,
    "rewards/ExactMatch/no_answer": 0.03,
    "rewards/ExactMatch/std": 0.4,
    "grad_norm": 0.2,
    "updates/nonfinite": 0.0,
    "clip_ratio/region_mean": 0.02,
    "sampling/sampling_logp_difference/mean": 0.01,
    "sampling/weight_lag": 0.0,
    "tree/intermediate_proportion": 0.4,
    "time/step": 12.0,
    "time/sample": 7.0,
    "time/reward": 0.5,
    "time/train": 4.5,
}


def late(**metrics: float) -> Series:
    """From rollout 40 on; ``__`` stands for the slash."""
    renamed = {name.replace("__", "/"): value for name, value in metrics.items()}
    return lambda i: renamed if i >= 40 else {}


def rises_and_falls(i: int) -> dict[str, float]:
    """It learns for 60 rollouts, and loses it in 15."""
    return {"reward": 0.4 + 0.4 * i / 60 if i < 60 else max(0.8 - 0.5 * (i - 60) / 15, 0.3), "grad_norm": 3.0}


WRONG = {"groups__all_right": 0.0, "groups__all_wrong": 1.0, "frac_reward_zero_std": 1.0}
SICK: dict[str, tuple[str, Series]] = {
    "truncation with a flat reward": (
        "clipped",
        late(completions__clipped_ratio=0.8, completions__mean_length=200),
    ),
    "all groups right": (
        "dead_groups",
        late(
            frac_reward_zero_std=0.98,
            groups__all_right=0.97,
            groups__all_wrong=0.01,
            reward=0.99,
            entropy=0.01,
        ),
    ),
    "all groups wrong": ("dead_groups", lambda i: late(**WRONG, grad_norm=0.0)(99) | {"reward": 0.0}),
    "answers that never parse": (
        "no_answer",
        late(**WRONG, rewards__ExactMatch__no_answer=0.99, reward=0.0, grad_norm=0.0),
    ),
    "sampler and trainer drift": ("drift", late(sampling__sampling_logp_difference__mean=0.4)),
    "entropy floor": (
        "entropy",
        late(entropy=0.003, groups__all_wrong=0.6, groups__all_right=0.2),
    ),
    "kl growth": ("kl", lambda i: {"kl": 0.02 + i / 20}),
    "length collapse": ("length", lambda i: {"completions/mean_length": max(80 * 0.97**i, 8), "reward": 0.4}),
    "length growth": ("length", lambda i: {"completions/mean_length": min(80 * 1.02**i, 500)}),
    "rate too high": ("rate", rises_and_falls),
    "clipped updates": ("clip_region", late(clip_ratio__region_mean=0.5)),
    "no shared prefixes": ("unshared", late(tree__intermediate_proportion=0.005)),
    "one reward drowns another": ("drowned", lambda i: {"rewards/Style/std": 9.0}),
    "duplicates in the data": ("repeated", lambda i: {}),
    "time goes into rewards": ("reward_time", lambda i: {"time/reward": 30.0, "time/step": 42.0}),
    "time goes into sampling": ("sampling_time", lambda i: {"time/sample": 70.0, "time/step": 75.0}),
    "steps dropped": ("nonfinite", late(updates__nonfinite=0.6)),
    "a judge that is down": ("not_applicable", late(rewards__not_applicable=1.0, frac_reward_zero_std=1.0)),
    "updates that do nothing": ("gradient", late(grad_norm=0.0)),
}
"""What is wrong → the finding that comes first, and the metrics of rollout ``i``."""

WELL: dict[str, Series] = {
    "learns": lambda i: {"reward": 0.2 + 0.6 * min(i / 100, 1), "entropy": 0.6 - 0.4 * min(i / 100, 1)},
    "solves it": lambda i: {
        "reward": min(0.3 + i / 80, 0.97),
        "entropy": max(0.6 * 0.96**i, 0.008),
        "groups/all_right": min(i / 100, 0.85),
        "groups/all_wrong": 0.03,
        "frac_reward_zero_std": min(i / 100, 0.88),
    },
    "longer and better": lambda i: {
        "reward": 0.3 + 0.4 * i / ROLLOUTS,
        "completions/mean_length": 80 * 1.01**i,
        "completions/clipped_ratio": 0.2,
    },
}
"""Healthy runs."""


def write_run(folder: Path, series: Series, *, repeated: bool = False) -> Path:
    """A folder as a run leaves it: metrics, configuration, rollouts."""
    rng = random.Random(0)
    rows = []
    for i in range(ROLLOUTS):
        noise = 1 + rng.gauss(0, 0.02)
        row = {name: value * noise for name, value in {**HEALTHY, **series(i)}.items()}
        rows.append({"step": i + 1, "epoch": 0, **row, "rollout": i + 1})
    folder.mkdir(parents=True)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "rollouts").mkdir()
    for i in range(0, ROLLOUTS, 20):
        prompts = [f"What is {n % 3 if repeated else n}?" for n in range(i, i + 20)]
        table = pandas.DataFrame(
            {"rollout": i, "prompt_uid": [str(n) for n in range(i, i + 20)], "member": 0, "prompt": prompts}
        )
        table.to_parquet(folder / "rollouts" / f"rollout-{i:06d}-rank-000.parquet")
    return folder


CONFIG = {
    "trainer": {"callbacks": None},
    "model": {
        "advantage_estimator": {
            "class_path": "lgrpo_lightning.estimators.LambdaGRPO",
            "init_args": {"power": 1.0},
        },
        "reward_model": [{"class_path": "lgrpo_lightning.rewards.ExactMatch"}, {"class_path": "mine.Style"}],
        "reward_weights": [1.0, 1.0],
        "sampling": {"max_new_tokens": 256},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
    },
}


def write_all(folder: Path) -> None:
    """Every sick and every healthy run."""
    for name, (first, series) in SICK.items():
        write_run(folder / name.replace(" ", "-"), series, repeated=first == "repeated")
    for name, series in WELL.items():
        write_run(folder / f"healthy-{name.replace(' ', '-')}", series)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
