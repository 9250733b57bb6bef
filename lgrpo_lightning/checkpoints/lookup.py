"""Finding a checkpoint by what a person calls it: a path, a file name of the run, or nothing, which is the last one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lgrpo_lightning.checkpoints.checkpoint_check import explain_unreadable
from lgrpo_lightning.checkpoints.checkpoint_io import make_error
from lgrpo_lightning.errors import NotFoundError
from lgrpo_lightning.rollouts.names import CHECKPOINTS, LAST_CHECKPOINT


def find_checkpoint_folder(trainer: Any) -> Path:
    """Where the checkpoints of a run are, read off its options: that of its ``LastCheckpoint``, or the run's own."""
    callbacks = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks]
    own = [c for c in callbacks if c and c.class_path.rpartition(".")[2] == "LastCheckpoint"]
    folders = [folder for c in own if (folder := (c.get("init_args") or {}).get("dirpath"))]
    return Path(folders[0]) if folders else Path(trainer.default_root_dir or ".") / CHECKPOINTS


def find_named_checkpoint(name: str | None, folder: Path) -> Path:
    """The checkpoint called ``name``, a path or one of ``folder``; None is the last one.

    Raises:
        FileNotFoundError: There is none; the message lists those there are.
        ValueError: It is cut off or damaged.
    """
    last = Path(LAST_CHECKPOINT).name
    for path in (Path(name), folder / name) if name else (folder / last,):
        if path.exists():
            if reason := explain_unreadable(path):
                raise make_error(path, reason)
            return path
    raise NotFoundError(
        f"There is no checkpoint {name or folder / last} (looked in {Path.cwd()}). {list_checkpoints(folder)}."
    )


def list_checkpoints(folder: Path) -> str:
    """The checkpoints of a run, for a message."""
    paths = sorted(str(path) for path in folder.glob("*.ckpt"))
    return f"In this run's folder: {', '.join(paths)}" if paths else f"{folder} holds no checkpoints"
