"""Writing and reading checkpoints so that a whole one or none is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from lgrpo_lightning.checkpoints.checkpoint_check import explain_unreadable
from lgrpo_lightning.distributed.sharded_checkpoint import (
    is_folder,
    read_whole_checkpoint,
    refuse_damaged,
    refuse_pickles,
)
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.whole_files import whole_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints of one file: written beside, flushed to the disk and renamed.

    Folders are read, too, put together in CPU memory, so that one process (or ddp) resumes from an fsdp2 run.

    Lightning's default goes through a temporary folder, from where a file is copied if that is another disk, and
    holds a checkpoint in memory twice.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it.

        Raises:
            UnwritableError: With the reason; an older file of this name is untouched.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with whole_file(Path(path)) as hidden, hidden.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """The checkpoint, in CPU memory, as one process would have written it.

        In a folder, the optimizer's state goes by names of parameters in place of numbers; ``Optimizer`` takes both.

        Raises:
            ValueError: It is cut off, or no checkpoint.
        """
        if "://" not in str(path) and Path(path).exists() and (reason := explain_unreadable(Path(path))):
            raise make_error(Path(path), reason)
        if is_folder(path):
            return read_whole_checkpoint(path)
        refuse_damaged(path)
        cpu: Any = "cpu"  # Lightning's default, a function, does not load subclasses of tensors
        with refuse_pickles(path):
            loaded: dict[str, Any] = super().load_checkpoint(path, cpu, weights_only)
        return loaded


def make_error(path: Path, reason: str) -> ValueError:
    """The error for a checkpoint that cannot be used."""
    others = sorted(str(p) for p in path.parent.glob("*.ckpt") if p.name != path.name and not explain_unreadable(p))
    instead = f"Whole ones beside it: {', '.join(others)}." if others else "There is no whole one beside it."
    return UserError(
        f"The checkpoint {path} cannot be read: {reason}. {instead} `--ckpt_path last` takes the newest whole one."
    )
