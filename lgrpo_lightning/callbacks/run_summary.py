"""The last message of a run."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lgrpo_lightning.callbacks.rollout_callback import count_rollouts, is_dry_run
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.rollouts.environment import write_environment
from lgrpo_lightning.rollouts.metric_series import build_metric_series, describe_changes, read_metric_rows
from lgrpo_lightning.rollouts.metrics_csv import writes_metrics
from lgrpo_lightning.rollouts.names import (
    CONFIG,
    ENVIRONMENT,
    LAST_CHECKPOINT,
    METRICS,
    PLOT,
    ROLLOUTS,
    format_duration,
    show_path,
)

WHAT = {
    ROLLOUTS: "every completion with its rewards, advantage and |λ|",
    LAST_CHECKPOINT: "the state after the last rollout",
    METRICS: "every logged number",
    PLOT: "the picture of the run",
    CONFIG: "the configuration",
    ENVIRONMENT: "versions and machine",
}


class RunSummary(Callback):
    """Says, when fitting is done, what came of it, where everything is and what to run next.

    When it begins, versions and machine are written to ``environment.json``.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began, self._first = time.monotonic(), count_rollouts(pl_module)
        if trainer.is_global_zero and not is_dry_run(trainer):
            write_environment(Path(trainer.default_root_dir))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the summary, after the progress bar is gone."""
        if stage == "fit" and not is_dry_run(trainer) and trainer.is_global_zero:
            root = Path(trainer.default_root_dir)
            board = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
            metrics = build_metric_series(read_metric_rows(root / METRICS)[0]) if writes_metrics(trainer) else {}
            outcomes = [f"  {name:<16} {text}" for name, text in describe_changes(metrics).items()]
            lines = [self._describe_work(trainer, pl_module), *outcomes, *list_places(root, board=board)]
            say(trainer, "\n".join(lines))

    def _describe_work(self, trainer: Trainer, pl_module: LightningModule) -> str:
        done = count_rollouts(pl_module)
        resumed = f" (resumed after {self._first})" if self._first else ""
        took = format_duration(time.monotonic() - self._began)
        return f"\nDone: {done} rollouts{resumed}, {trainer.global_step} optimizer steps, in {took}."


def list_places(root: Path, *, board: bool) -> list[str]:
    """Where everything is, and the commands that resume from here; only what exists."""
    there = [name for name in WHAT if (root / name).exists()]
    lines = [f"Everything is in {show_path(root)}:", *(f"  {name:<22} {WHAT[name]}" for name in there)] if there else []
    path = {name: shlex.quote(show_path(root / name)) for name in there}
    following = []
    if LAST_CHECKPOINT in path and CONFIG in path:
        following.append(f"  lgrpo validate --config {path[CONFIG]} --ckpt_path {path[LAST_CHECKPOINT]}")
    if ROLLOUTS in path and METRICS in path:
        following.append(f"  lgrpo report {shlex.quote(show_path(root))}")
    if ROLLOUTS in path:
        columns = "['rollout', 'prompt', 'completion', 'reward', 'advantage']"
        code = f"import pandas; print(pandas.read_parquet({show_path(root / ROLLOUTS)!r})[{columns}])"
        following.append(f"  python -c {shlex.quote(code) if chr(34) in code else chr(34) + code + chr(34)}")
    if board:
        following.append(f"  tensorboard --logdir {shlex.quote(show_path(root))}")
    return [*lines, *(["Next:", *following] if following else [])]
