"""What the values of a configuration may import, and have called."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import set_parsing_settings

from lgrpo_lightning.commands.resume import flat
from lgrpo_lightning.commands.written import Entry
from lgrpo_lightning.commands.yaml_text import loaded
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.registry.import_path import STANDARD, imported, names_a_file


def limit_imports(written: Sequence[Entry]) -> None:
    """Keep the parser from Python's own modules, from files, and from what a key of any type names.

    What names a file is a path: ``train.jsonl`` is no class in a module ``train``. Where a key takes a path or a class,
    the parser would else import the module, and so run ``train.py``.
    """
    values = {text for entry in written for text in _strings(entry.value)}
    files = [
        v for v in values if "." in v and all(p.isidentifier() for p in v.split(".")) and names_a_file(v)
    ]
    set_parsing_settings(
        import_path_denylist=sorted({*STANDARD, *files}), instantiate_subclass_spec_in_any=False
    )


def refuse_calls(configuration: Mapping[str, Any], written: Sequence[Entry]) -> None:
    """Refuse a ``class_path`` that names a function, which the parser would call with the ``init_args``.

    It checks what the function returns where a class is expected, but not where something that can be called is.

    Raises:
        ValueError: With the key.
    """
    for key, path in flat(configuration):
        if key.endswith(".class_path") and isinstance(path, str) and _is_function(path):
            place = next((f"{entry.place}: " for entry in reversed(written) if entry.value == path), "")
            raise UserError(
                f"{place}{key} is {path!r}, a function, which would be called with the init_args; a class_path names a "
                f"class. Where a function is meant, name it alone: {key.removesuffix('.class_path')}: {path}."
            )


def _is_function(path: str) -> bool:
    try:
        return inspect.isroutine(imported(path))
    except ValueError:  # in a value of any type, where it stands for nothing
        return False


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
