"""Replacing a checkpoint, a file or a folder, so that a whole one is there at any moment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


class CheckpointFile:
    """``last.ckpt`` of a folder and the names it has on the way.

    Args:
        folder: Where it stands.
    """

    def __init__(self, folder: Path) -> None:
        self.last = folder / "last.ckpt"
        self.partial = folder / ".last.ckpt.part"
        self.previous = folder / "last-previous.ckpt"

    def newest(self) -> Path | None:
        """The newest whole checkpoint: after a kill between two renames that is ``previous``."""
        return next((path for path in (self.last, self.previous) if path.exists()), None)

    def publish(self) -> None:
        """Put ``partial`` in the place of ``last``. Of two folders the old one has to move first."""
        if not self.partial.is_dir() and not self.last.is_dir():
            os.replace(self.partial, self.last)
        else:
            if self.last.exists():
                _remove(self.previous)
                self.last.rename(self.previous)
            self.partial.rename(self.last)
        _remove(self.previous)

    def clear_partial(self) -> bool:
        """Delete a checkpoint whose writing was cut off; whether there was one."""
        return _remove(self.partial)


def _remove(path: Path) -> bool:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    else:
        return False
    return True
