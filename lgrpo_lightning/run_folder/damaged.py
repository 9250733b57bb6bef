"""Damaged files of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lgrpo_lightning.run_folder.names import show_path


@contextmanager
def skip_if_damaged(path: Path, told: set[Path]) -> Iterator[None]:
    """Skip ``path`` if reading fails, with one line of warning for all that share ``told``."""
    try:
        yield
    except Exception as error:  # whatever a reader makes of bytes that are not its own
        if path not in told:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"Left out: {show_path(path)}: {reason}", file=sys.stderr)
        told.add(path)
