"""The parser of a run's configuration files and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, Namespace, get_loader
from lightning.pytorch.cli import LightningArgumentParser


class RefusedError(Exception):
    """The parser does not understand the configuration."""


class ArgumentParser(LightningArgumentParser):
    """Leaves its errors to ``RunCLI``, and takes a path of the data for data, never for more configuration."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong."""
        raise RefusedError(str(ex) if ex else message) from ex

    def add_class_arguments(self, theclass: type, nested_key: str | None = None, **options: Any) -> Any:
        """Add the options of a class; a file of prompts that exists must not be read as YAML."""
        if nested_key == "data":
            options["sub_configs"] = False
        return super().add_class_arguments(theclass, nested_key, **options)


class ConfigFile(ActionConfigFile):  # type: ignore[misc]
    """``--config``: a list in a file stands for itself, with nothing of what an earlier file had in its place."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Read it on top of the files before."""
        path = Path(str(values)).expanduser()
        given = get_loader("yaml")(path.read_text(encoding="utf-8") if path.is_file() else str(values))
        if isinstance(given, dict):
            _remove_lists(cfg, given)  # jsonargparse would give the items of both lists each other's options
        super().__call__(parser, cfg, values, option_string)


def _remove_lists(before: Namespace, given: dict[str, Any]) -> None:
    """Take out of ``before`` what ``given`` has a list for."""
    for key, value in given.items():
        if isinstance(value, list):
            before.pop(key, None)
        elif isinstance(value, dict) and isinstance(inner := before.get(key), Namespace):
            _remove_lists(inner, value)
