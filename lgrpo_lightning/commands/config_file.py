"""One of several configuration files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, Namespace, get_loader


class ConfigFile(ActionConfigFile):  # type: ignore[misc]
    """``--config``: a list in a file stands for itself, with nothing of what an earlier file had in its place."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Read it on top of the files before."""
        path = Path(str(values)).expanduser()
        given = get_loader("yaml")(path.read_text(encoding="utf-8") if path.is_file() else str(values))
        if isinstance(given, dict):
            _forget(cfg, given)
        super().__call__(parser, cfg, values, option_string)


def _forget(before: Namespace, given: dict[str, Any]) -> None:
    """Take out of ``before`` what ``given`` has a list for."""
    for key, value in given.items():
        if isinstance(value, list):
            before.pop(key, None)
        elif isinstance(value, dict) and isinstance(inner := before.get(key), Namespace):
            _forget(inner, value)
