"""Errors of the configuration, in words that say what is possible."""

from __future__ import annotations

import dis
import os
import sys
import traceback
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException

TRACEBACK = "LGRPO_TRACEBACK"
"""Environment variable: 1 shows the traceback of every error."""

ON_PURPOSE = (ValueError, OSError, TypeError, ImportError, RuntimeError)
PARSERS = ("jsonargparse",)
"""Packages that wrap what a component's ``__init__`` raises."""


def report(error: Exception) -> int:
    """Print ``error``: its message alone where it was raised on purpose for the user, else the traceback.

    Returns:
        The exit status: 2 for an error on purpose, 1 otherwise.
    """
    purposeful = _on_purpose(error)
    if purposeful is None or os.environ.get(TRACEBACK, "0") not in ("", "0"):
        traceback.print_exception(error)
    if purposeful is None:
        return 1
    print(f"lgrpo: {purposeful}", file=sys.stderr)
    return 2


def _on_purpose(error: BaseException | None, *, parsed: bool = False) -> BaseException | None:
    """The error that a ``raise`` of this library, a plug-in or Lightning's checks meant for the user, if any.

    An error that merely happens in a line of this library (its own mistake) is none.

    Args:
        parsed: It came up while the parser built components: any class may refuse its arguments there.
    """
    if error is None or error.__traceback__ is None:
        return None
    if isinstance(error, MisconfigurationException):
        return error
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    parts = Path(code.co_filename).parts
    if any(part in PARSERS for part in parts):
        return _on_purpose(error.__cause__, parsed=True)
    package = str(last.tb_frame.f_globals.get("__name__"))
    ours = package.startswith("lgrpo_") or (parsed and code.co_name in ("__init__", "__post_init__"))
    raised = dis.opname[code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
    return error if ours and raised and isinstance(error, ON_PURPOSE) else None
