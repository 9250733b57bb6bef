"""Printing beside a live progress bar, and to a pipe."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from rich.console import Console, RenderableType


def is_on_terminal() -> bool:
    """Whether a person watches standard output; else it gets plain lines without control characters."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def find_live_console(trainer: Trainer) -> Console | None:
    """The console of the progress bar that is on the screen now, or None."""
    progress: Any = getattr(trainer.progress_bar_callback, "progress", None)
    return progress.console if progress is not None and progress.live.is_started else None


def say(trainer: Trainer, text: str) -> None:
    """Print lines on rank 0 as they are, never truncated, above the progress bar if there is one."""
    if not trainer.is_global_zero:
        return
    console = find_live_console(trainer)
    text = escape_unprintable(text)
    if console is None:
        print(text, flush=True)
    else:
        console.print(text, soft_wrap=True, markup=False, highlight=False)


def escape_unprintable(text: str) -> str:
    """``text`` as standard output can take it: what its encoding does not have is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def show(trainer: Trainer, what: RenderableType) -> None:
    """Draw a rich table on rank 0, above the progress bar if there is one."""
    from rich import get_console

    if trainer.is_global_zero:
        (find_live_console(trainer) or get_console()).print(what)
