"""Replacing a checkpoint, a file or a folder, so that a whole one is there at any moment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lgrpo_lightning.checkpoints.checkpoint_check import unreadable
from lgrpo_lightning.distributed.sharded_reading import REST
from lgrpo_lightning.run_folder.whole_files import flush_to_disk


class CheckpointFile:
    """``last.ckpt`` of a folder and the names it has on the way.

    Args:
        folder: Where it stands.
        keep_previous: Keep the one before as ``last-previous.ckpt``.
    """

    def __init__(self, folder: Path, *, keep_previous: bool = True) -> None:
        self.folder = folder
        self.keep_previous = keep_previous
        self.last = folder / "last.ckpt"
        self.partial = folder / ".last.ckpt.part"
        self.previous = folder / "last-previous.ckpt"
        self._leaving = folder / ".last-previous.ckpt.part"

    def exists(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self.newest() is not None

    def newest(self) -> Path | None:
        """The newest whole checkpoint. After a kill between two renames that is not ``last``."""
        return next((path for path in self._candidates() if not unreadable(path)), None)

    def damaged(self) -> dict[Path, str]:
        """Checkpoints that are passed over, with the reason."""
        found: dict[Path, str] = {}
        for path in (self.last, self.previous):
            if path.exists() and (reason := unreadable(path)):
                found[path] = reason
        return found

    def _candidates(self) -> list[Path]:
        """Newest first. ``partial`` is whole, and newer than ``previous``, where ``last`` has just made room for it."""
        first = self.last if self.last.exists() else self.partial
        return [path for path in (first, self.previous) if path.exists()]

    def publish(self, *, renewed: bool = False) -> None:
        """Put ``partial`` in the place of ``last``, which becomes ``previous``.

        A damaged ``last`` is not worth keeping: ``previous`` then stays.

        Args:
            renewed: It is the same rollout's as ``last``, which then is not kept.
        """
        if self.last.exists():
            if unreadable(self.last):
                _remove(self.last)
            elif self.keep_previous and not renewed:
                put_in_place(self.last, self.previous, aside=self._leaving)
        put_in_place(self.partial, self.last, aside=self._leaving)
        if not self.keep_previous:
            _remove(self.previous)

    def settle(self, used: Path | None) -> list[Path]:
        """Finish what a kill cut off; what was removed.

        Args:
            used: The checkpoint that the run resumes from.
        """
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
    _flush_folder(partial)
    if path.is_dir() or (path.exists() and partial.is_dir()):  # a folder cannot be replaced in one step
        _remove(aside)
        path.rename(aside)
    os.replace(partial, path)
    flush_to_disk(path.parent)
    _remove(aside)


def _flush_folder(partial: Path) -> None:
    """Have a folder of shards on the disk before it is renamed; a file is already."""
    if partial.is_dir():
        flush_to_disk(partial / REST)
        flush_to_disk(partial)


def _remove(path: Path) -> bool:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    else:
        return False
    return True
