"""Small real runs through the command line."""

from __future__ import annotations

from pathlib import Path

import pandas
import torch

from lgrpo_lightning import cli

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
SMALL = {
    "trainer.max_steps": 3,
    "trainer.val_check_interval": 2,
    "trainer.enable_progress_bar": "false",
    "data.prompts_per_step": 2,
    "data.train.init_args.count": 12,
    "data.validation.init_args.count": 4,
    "model.group_size": 4,
    "model.sampling.max_new_tokens": 32,
    "model.schedule.warmup_steps": 0,
    "model.validation.k": 2,
}
"""Three rollouts of two prompts; where they are trained on, without validation, which takes half the time."""
VALIDATED = {"trainer__limit_val_batches": None}
"""A fit that validates: before, after the second rollout and at the end."""


def lgrpo_arguments(command: str, root: Path, **changes: object) -> list[str]:
    """The words of ``lgrpo COMMAND`` on the quickstart, made small; keys with ``__`` for the dots."""
    unvalidated = {"trainer.limit_val_batches": 0} if command == "fit" else {}
    options = SMALL | unvalidated | {key.replace("__", "."): value for key, value in changes.items()}
    config = options.pop("config", CONFIG)
    flags = [f"--{key}={value}" for key, value in options.items() if value is not None]
    return [command, f"--config={config}", f"--trainer.default_root_dir={root}", *flags]


def lgrpo(command: str, root: Path, **changes: object) -> int:
    """Run ``lgrpo COMMAND`` in this process; the exit status."""
    return cli.main(lgrpo_arguments(command, root, **changes))


def fit(root: Path, **changes: object) -> Path:
    """A small fit that ends well; its folder."""
    assert lgrpo("fit", root, **changes) == 0
    return root


def metrics(root: Path) -> pandas.DataFrame:
    """The run's ``metrics.csv``."""
    return pandas.read_csv(root / "metrics.csv")


def train_metrics(root: Path) -> pandas.DataFrame:
    """The rows of ``metrics.csv`` that rollouts wrote."""
    table = metrics(root)
    return table[table["reward"].notna()].reset_index(drop=True)


def rollouts(root: Path) -> pandas.DataFrame:
    """The run's rollouts."""
    return pandas.read_parquet(root / "rollouts").sort_values(["rollout", "prompt_uid", "member"], ignore_index=True)


def checkpoint(root: Path) -> dict[str, object]:
    """The run's last checkpoint, as anybody may load it."""
    return torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)
