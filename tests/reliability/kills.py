"""Kill a run at random moments, resume it, and compare it with the uninterrupted one, bit for bit.

    python -m tests.reliability.kills                    # 20 kills of one process, 3 of two with ddp, 3 with fsdp2
    python -m tests.reliability.kills --one 5 --two 0 --seed 7

Prints a Markdown table. The seed, printed too, repeats the moments; what they hit depends on the machine. Takes some
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

ROLLOUTS = 4
SMALL = RUN | {
    "trainer__max_steps": 2 * ROLLOUTS,
    "model__group_size": 8,
    "model__sampler__init_args__max_batch_tokens": 256,
}
"""Rollouts that take about as long to sample as to learn from."""


def main() -> int:
    """Run the kills; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", type=int, default=20, help="kills of a run of one process")
    parser.add_argument("--two", type=int, default=3, help="kills of a run of two, for ddp and for fsdp2")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    print(f"seed {asked.seed}\n\n| run | killed | under way | resumed after | identical |\n|---|---|---|---|---|")
    identical = True
    with tempfile.TemporaryDirectory(prefix="lgrpo-kills-") as folder:
        for strategy, kills in (("", asked.one), ("ddp", asked.two), ("fsdp2", asked.two)):
            if kills:
                identical &= killed_runs(Path(folder) / (strategy or "one"), strategy, kills, draw)
    return 0 if identical else 1


def killed_runs(folder: Path, strategy: str, kills: int, draw: random.Random) -> bool:
    """So many kills of one kind of run; whether all resumed runs equal the uninterrupted one."""
    whole = folder / "whole"
    wait(started(whole, strategy, "1"))
    first, last = (
        (whole / "rollouts" / f"rollout-{r:06d}-rank-000.parquet").stat().st_mtime for r in (0, ROLLOUTS - 1)
    )
    identical = True
    for number in range(kills):
        root = folder / f"killed-{number}"
        row, equal = one_kill(root, whole, strategy, (last - first) / (ROLLOUTS - 1), draw)
        identical &= equal
        print(f"| {strategy + ' x 2' if strategy else 'one process'} | {row} |", flush=True)
        if equal:
            shutil.rmtree(root)
    return identical


def one_kill(root: Path, whole: Path, strategy: str, a_rollout: float, draw: random.Random) -> tuple[str, bool]:
    """The cells of a row after the first, and whether the resumed run equals the whole one.

    Args:
        a_rollout: Seconds that a rollout takes.
    """
    index, writing = draw.randrange(ROLLOUTS - 1), draw.random() < 0.25
    delay = draw.uniform(0, 0.02) if writing else draw.uniform(0, a_rollout)
    runs = started(root, strategy, "killed")
    runs[0].until(f"rollouts/rollout-{index:06d}-rank-000.parquet")
    if writing:
        runs[0].until("checkpoints/.last.ckpt.part")
    time.sleep(delay)
    victims = draw.choice([runs, runs[:1], runs[1:] or runs])
    for run in victims:
        run.signalled(signal.SIGKILL)
    under_way = moment(root)
    for run in runs:
        run.ended(120)
    what = "a checkpoint's start" if writing else f"rollout {index} was drawn"
    which = f", {'both' if len(victims) == 2 else f'rank {runs.index(victims[0])}'}" if strategy else ""
    done = saved(root)
    wait(started(root, strategy, "resumed", **({"ckpt_path": "last"} if done else {})))
    cells = f"{delay:.3f} s after {what}{which} | {under_way} | {done} rollouts"
    try:
        same_run(whole, root)
    except AssertionError as error:
        return f"{cells} | NO: {str(error).splitlines()[0]}", False
    return f"{cells} | yes", True


def started(root: Path, strategy: str, log: str, **options: object) -> Sequence[Running]:
    """The processes of a run."""
    if strategy:
        return pair(root, log=log, **SMALL, trainer__strategy=strategy, **options)
    return [Run(root, log=log, **SMALL, **options)]


def wait(runs: Sequence[Running]) -> None:
    """Until a run is over, which has to end well."""
    for run in runs:
        if (status := run.ended(600)) != 0:
            raise SystemExit(f"a run ended with status {status}:\n{run.said()[-3000:]}")


def saved(root: Path) -> int:
    """Rollouts in the checkpoint that a resumed run resumes from."""
    from lgrpo_lightning.checkpoints.checkpoint_file import CheckpointFile

    newest = CheckpointFile(root / "checkpoints").find_newest()
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
    if written > done:
        return f"update of rollout {done}"
    if done == ROLLOUTS:
        return "after the last rollout"
    return f"sampling rollout {done}, or validating before it"


if __name__ == "__main__":
    sys.exit(main())
