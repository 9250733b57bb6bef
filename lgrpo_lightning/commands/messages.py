"""What ``lgrpo`` prints of an error."""

from __future__ import annotations

import os
import sys
import traceback

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lgrpo_lightning.errors import UserError

TRACEBACK = "LGRPO_TRACEBACK"
"""Environment variable: 1 shows the traceback of every error."""


def report(error: Exception) -> int:
    """Print ``error``: its message alone where it, or what caused it, is meant for the user, else the traceback.

    Returns:
        The exit status: 2 for an error that is meant for the user, 1 otherwise.
    """
    shown: BaseException | None = error
    while shown and not isinstance(shown, UserError | MisconfigurationException):
        shown = shown.__cause__  # the parser wraps what a component's __init__ raises
    if shown is None or os.environ.get(TRACEBACK, "0") not in ("", "0"):
        traceback.print_exception(error)
    if shown is None:
        return 1
    print(f"lgrpo: {shown}", file=sys.stderr)
    return 2
