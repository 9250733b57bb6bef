"""Values of a configuration that name files: they are never imported, whatever their key takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from jsonargparse import set_parsing_settings

from lgrpo_lightning.commands.written import Entry
from lgrpo_lightning.commands.yaml_text import loaded
from lgrpo_lightning.import_path import names_a_file


def keep_files_from_import(written: Sequence[Entry]) -> None:
    """Have the parser take what names a file for a path: ``train.jsonl`` is no class in a module ``train``.

    Where a key takes a path or a class, the parser would else import the module, and so run ``train.py``.
    """
    values = {text for entry in written for text in _strings(entry.value)}
    files = [
        v for v in values if "." in v and all(p.isidentifier() for p in v.split(".")) and names_a_file(v)
    ]
    if files:
        set_parsing_settings(import_path_denylist=sorted(files))


def _strings(value: Any) -> Iterator[str]:
    """The strings in a value, those in YAML or JSON on the command line too."""
    if isinstance(value, str):
        yield value
        try:
            inner = loaded(value)
        except yaml.YAMLError:
            return
        if not isinstance(inner, str):
            yield from _strings(inner)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
