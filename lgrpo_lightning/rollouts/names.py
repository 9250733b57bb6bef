"""File names under ``trainer.default_root_dir``, and the renaming of older runs there."""

from __future__ import annotations

import re
from pathlib import Path

ROLLOUTS = "rollouts"
NONFINITE = "nonfinite"
ROLLOUT_FILE = re.compile(r"rollout-(\d+)-rank-(\d+)\.parquet")
CHECKPOINTS = "checkpoints"
LAST_CHECKPOINT = "checkpoints/last.ckpt"
METRICS = "metrics.csv"
PLOT = "reward.png"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
REPORT = "report.html"
LOGGED = "logged_completions.json"


def set_aside(path: Path, name: str = "{stem}.old-{n}{suffix}") -> Path:
    """Rename ``path`` to the first free name, so that a new run does not overwrite an older one.

    Args:
        path: The file or folder to keep.
        name: Its new name in the same folder; ``{n}`` counts from 1.

    Returns:
        The new path: ``metrics.csv`` becomes ``metrics.old-1.csv``.
    """
    n = 1
    while (kept := path.with_name(name.format(stem=path.stem, n=n, suffix=path.suffix))).exists():
        n += 1
    return path.rename(kept)


def show_path(path: Path) -> str:
    """``path`` relative to the current folder, as a user would type it."""
    try:
        here, there = Path.cwd().resolve(), path.resolve()
    except FileNotFoundError:  # the current folder was removed
        return str(path)
    return str(there.relative_to(here)) if there.is_relative_to(here) else str(there)


def format_duration(seconds: float) -> str:
    """A time a person reads.

    >>> format_duration(4.2), format_duration(151), format_duration(7380)
    ('4.2 s', '2 min 31 s', '2 h 3 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
