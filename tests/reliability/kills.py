"""Kill a run at random moments, resume it, and compare it with the uninterrupted one, bit for bit.

    python -m tests.reliability.kills                    # 20 kills of one process, 3 of two with ddp, 3 with fsdp2
    python -m tests.reliability.kills --one 5 --two 0 --seed 7

Prints a Markdown table. The seed, printed too, repeats the delays; what they hit depends on the machine. Takes some
minutes. The exit status is 1 where a resumed run differs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.reliability.processes import RUN, Run, Running, pair, same_run

SLOWER = RUN | {
    "trainer__max_steps": 12,
    "model__group_size": 16,
    "model__sampler__init_args__max_batch_tokens": 256,
    "data__train__init_args__count": 8,
    "data__validation__init_args__count": 8,
}
"""Six rollouts that take about as long to sample as to learn from."""


def main() -> int:
    """Run the kills; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", type=int, default=20, help="kills of a run of one process")
    parser.add_argument("--two", type=int, default=3, help="kills of a run of two, for ddp and for fsdp2")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    print(
        f"seed {asked.seed}\n\n| run | killed after | under way | resumed after | identical |\n|---|---|---|---|---|"
    )
    identical = True
    with tempfile.TemporaryDirectory(prefix="lgrpo-kills-") as folder:
        for strategy, kills in (("", asked.one), ("ddp", asked.two), ("fsdp2", asked.two)):
            if kills:
                identical &= killed_runs(Path(folder) / (strategy or "one"), strategy, kills, draw)
    return 0 if identical else 1


def killed_runs(folder: Path, strategy: str, kills: int, draw: random.Random) -> bool:
    """So many kills of one kind of run; whether all resumed runs equal the uninterrupted one."""
    whole = folder / "whole"
    began = time.monotonic()
    wait(started(whole, strategy, "1"))
    length = time.monotonic() - began
    start = training_began(whole) - (time.time() - (time.monotonic() - began))
    identical = True
    for number in range(kills):
        root = folder / f"killed-{number}"
        delay = draw.uniform(max(start, 0), length)
        row, equal = one_kill(root, whole, strategy, delay, draw)
        identical &= equal
        print(f"| {strategy + ' x 2' if strategy else 'one process'} | {delay:.1f} s | {row} |", flush=True)
        if equal:
            shutil.rmtree(root)
    return identical


def one_kill(root: Path, whole: Path, strategy: str, delay: float, draw: random.Random) -> tuple[str, bool]:
    """The cells of a row from "under way" on, and whether the resumed run equals the whole one."""
    runs = started(root, strategy, "killed")
    time.sleep(delay)
    for run in draw.sample(runs, len(runs)) if draw.random() < 0.5 else runs[:1]:
        if run.status() is None:
            run.signalled(signal.SIGKILL)
    for run in runs:
        run.ended(120)
    under_way, done = moment(root), saved(root)
    wait(started(root, strategy, "resumed", **({"ckpt_path": "last"} if done else {})))
    try:
        same_run(whole, root)
    except AssertionError as error:
        return f"{under_way} | {done} rollouts | NO: {str(error).splitlines()[0]}", False
    return f"{under_way} | {done} rollouts | yes", True


def started(root: Path, strategy: str, log: str, **options: object) -> Sequence[Running]:
    """The processes of a run."""
    if strategy:
        return pair(root, log=log, **SLOWER, trainer__strategy=strategy, **options)
    return [Run(root, log=log, **SLOWER, **options)]


def wait(runs: Sequence[Running]) -> None:
    """Until a run is over, which has to end well."""
    for run in runs:
        if (status := run.ended(600)) != 0:
            raise SystemExit(f"a run ended with status {status}:\n{run.said()[-3000:]}")


def training_began(root: Path) -> float:
    """When, as time.time() has it: the first file of the run."""
    return (root / "config.yaml").stat().st_mtime


def saved(root: Path) -> int:
    """Rollouts in the checkpoint that a resumed run goes on from."""
    from lgrpo_lightning.callbacks.checkpoint_file import CheckpointFile

    newest = CheckpointFile(root / "checkpoints").newest()
    return 0 if newest is None else int(torch.load(newest, weights_only=True)["lgrpo"]["rollout_index"])


def moment(root: Path) -> str:
    """What a killed run was doing, from what it left."""
    hidden = [p.name for folder in ("checkpoints", "rollouts") for p in (root / folder).glob(".*.part")]
    if any("ckpt" in name for name in hidden):
        return "writing a checkpoint"
    if hidden:
        return "writing the rollouts"
    written = len(list((root / "rollouts").glob("rollout-*-rank-000.parquet")))
    done = saved(root)
    if not (root / "rollouts").is_dir():
        return "set-up or first validation"
    if written > done:
        return f"update of rollout {done}"
    return f"sampling rollout {done}, or validating before it" if done < 6 else "the end"


if __name__ == "__main__":
    sys.exit(main())
