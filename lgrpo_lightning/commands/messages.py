"""Errors of the configuration, in words that say what is possible."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from lgrpo_lightning import registry

KINDS = {
    "model.sampler": "sampler",
    "model.segmenter": "segmenter",
    "model.reward_model": "reward_model",
    "model.advantage_estimator": "advantage_estimator",
    "data.train": "prompt_source",
    "data.validation": "prompt_source",
    "data.test": "prompt_source",
    "data.predict": "prompt_source",
}
"""Key of the configuration → the kind of component it takes."""

TRACEBACK = "LGRPO_TRACEBACK"


def explained(message: str, keys: Iterable[str] = ()) -> str:
    """The parser's ``message``, in a line where it is about an unknown name or key.

    Args:
        keys: The keys that exist.
    """
    place = re.search(r'Parser key "([\w.]+)"', message)
    name = re.search(r"Expected a dot import path string: ([\w.]+)", message)
    if place and name and place[1] in KINDS:
        return f"{place[1]}: {registry.unknown_component_message(KINDS[place[1]], name[1])}"
    if unknown := _unknown_key(message):
        close = difflib.get_close_matches(unknown, list(keys), n=1, cutoff=0.7)
        meant = f" Did you mean '{close[0]}'?" if close else ""
        return f"there is no option '{unknown}'.{meant} `lgrpo fit --help` lists them all."
    return message


def report(error: Exception) -> int:
    """Print ``error``: one line where this library or a plug-in raised it on purpose, else the traceback too.

    Returns:
        The exit status: 2 for an error on purpose, 1 otherwise.
    """
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    ours = any(part.startswith("lgrpo_") for part in raised_in.parts)
    on_purpose = ours and isinstance(error, ValueError | OSError | TypeError | ImportError | RuntimeError)
    if on_purpose and not os.environ.get(TRACEBACK):
        print(f"lgrpo: {error}", file=sys.stderr)
        return 2
    traceback.print_exception(error)
    return 1


def _unknown_key(message: str) -> str | None:
    """The key that a message of the parser calls unknown."""
    for pattern in (
        r"unrecognized arguments: --([\w.]+)",
        r"does not accept option '([\w.]+)'",
        r"[Kk]ey '([\w.]+)' is not expected",
        r"Key \"([\w.]+)\" is not expected",
        r"No action for key \"([\w.]+)\"",
    ):
        if found := re.search(pattern, message):
            return found[1]
    return None
