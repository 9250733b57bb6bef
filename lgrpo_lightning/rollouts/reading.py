"""Reading files of a run that may be damaged."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.names import show_path


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


def read_config(path: Path) -> Mapping[str, Any]:
    """The configuration in a YAML file.

    Raises:
        ValueError: There is none.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{show_path(path)} holds no configuration: {error}") from error
    if not isinstance(config, Mapping):
        raise UserError(f"{show_path(path)} holds no configuration.")
    return config
