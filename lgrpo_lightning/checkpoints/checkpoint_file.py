"""Replacing a checkpoint, a file or a folder, so that a whole one is there at any moment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lgrpo_lightning.checkpoints.checkpoint_check import explain_unreadable
from lgrpo_lightning.distributed.activity import note_activity
from lgrpo_lightning.distributed.sharded_reading import REST
from lgrpo_lightning.rollouts.whole_files import explain_if_unwritable, flush_to_disk, make_folder


class CheckpointFile:
    """``last.ckpt`` of a folder and the names it has on the way; the one before stays as ``last-previous.ckpt``."""

    def __init__(self, folder: Path, *, keep_previous: bool = True) -> None:
        self.folder = folder
        self.keep_previous = keep_previous
        self.last = folder / "last.ckpt"
        self.partial = folder / ".last.ckpt.part"
        self.previous = folder / "last-previous.ckpt"
        self._leaving = folder / ".last-previous.ckpt.part"

    def find_newest(self) -> Path | None:
        """The newest whole checkpoint. After a kill between two renames that is not ``last``."""
        return next((path for path in self._list_candidates() if not explain_unreadable(path)), None)

    def list_damaged(self) -> dict[Path, str]:
        """Checkpoints that are passed over, with the reason."""
        reasons: dict[Path, str] = {}
        for path in (self.last, self.previous):
            if path.exists() and (reason := explain_unreadable(path)):
                reasons[path] = reason
        return reasons

    def _list_candidates(self) -> list[Path]:
        """Newest first. ``partial`` is whole, and newer than ``previous``, where ``last`` has just made room for it."""
        first = self.last if self.last.exists() else self.partial
        return [path for path in (first, self.previous) if path.exists()]

    def publish(self, *, renewed: bool = False) -> None:
        """Put ``partial`` in the place of ``last``, which becomes ``previous``.

        A damaged ``last`` is removed: ``previous`` then stays.

        Args:
            renewed: It is the same rollout's as ``last``, which then is not kept.
        """
        if self.last.exists():
            if explain_unreadable(self.last):
                _remove(self.last)
            elif self.keep_previous and not renewed:
                put_in_place(self.last, self.previous, aside=self._leaving)
        put_in_place(self.partial, self.last, aside=self._leaving)
        if not self.keep_previous:
            _remove(self.previous)

    def settle(self, used: Path | None) -> list[Path]:
        """Finish what a kill cut off; what was removed."""
        if used is not None and used.name == self.partial.name and self.partial.exists():
            self.publish()
        leftovers = [p for p in self.folder.glob(".*.part") if _remove(p)]
        return sorted(leftovers)


def put_in_place(partial: Path, path: Path, *, aside: Path | None = None) -> None:
    """Rename a checkpoint to ``path``, at once where both are files.

    Args:
        aside: What a folder that stands there is called until that is done; None is ``…-replaced``.
    """
    aside = aside or path.with_name(f"{path.stem}-replaced{path.suffix}")
    # bytes before the name: after a power cut a renamed file could be empty
    if partial.is_dir():  # a file was flushed when it was written
        flush_to_disk(partial / REST)
        flush_to_disk(partial)
    if path.is_dir() or (path.exists() and partial.is_dir()):  # a folder cannot be replaced in one step
        _remove(aside)
        path.rename(aside)
    os.replace(partial, path)
    flush_to_disk(path.parent)
    _remove(aside)


def _remove(path: Path) -> bool:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    else:
        return False
    return True


def write_checkpoint(
    trainer: Trainer,
    state: dict[str, Any],
    path: Path,
    *,
    put: Callable[[Path, Path], None] = put_in_place,
    wait: bool = True,
) -> None:
    """Write ``state`` to ``path``; whatever was there stays whole until that is done. Collective.

    Args:
        put: Called on rank 0 with what was written and ``path``, to put it there.
        wait: Whether all ranks are here.

    Raises:
        UnwritableError: With the reason; there is no room, say.
    """
    partial = path.with_name(f".{path.name}.part")
    note_activity(f"writing {path.name}", waits=True, saves=True)
    with explain_if_unwritable(path):
        make_folder(path.parent)
        trainer.strategy.save_checkpoint(state, str(partial))
    note_activity(f"waiting for {path.name}", waits=True)
    if wait:
        # rank 0 must not rename a folder into which others still write
        trainer.strategy.barrier(f"{path.name} written")
    if trainer.is_global_zero:
        put(partial, path)
    if wait:
        trainer.strategy.barrier(f"{path.name} renamed")
    note_activity("going on")
