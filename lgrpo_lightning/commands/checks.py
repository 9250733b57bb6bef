"""What the values of a configuration may not be: modules to import, functions to call, numbers that nothing means."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import set_parsing_settings

from lgrpo_lightning.commands.entries import Entry
from lgrpo_lightning.commands.explanations import describe_place
from lgrpo_lightning.commands.resume import flatten
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.registry.import_path import STANDARD, import_object, names_a_file

OURS = ("lgrpo_lightning.", "torch.", "lightning.")
"""Packages whose classes take finite numbers only; one of somebody else's may take others."""
SEEDS = 2**32


def limit_imports(written: Sequence[Entry]) -> None:
    """Keep the parser from Python's own modules, from files, and from what a key of any type names.

    What names a file is a path: ``train.jsonl`` is no class in a module ``train``. Where a key takes a path or a class,
    the parser would else import the module, and so run ``train.py``.
    """
    dotted = {name for entry in written for name in re.findall(r"[^\W\d]\w*(?:\.\w+)+", str(entry.value))}
    set_parsing_settings(
        import_path_denylist=sorted({*STANDARD, *filter(names_a_file, dotted)}), instantiate_subclass_spec_in_any=False
    )


def refuse_calls(configuration: Mapping[str, Any], written: Sequence[Entry]) -> None:
    """Refuse a ``class_path`` that names a function, which the parser would call with the ``init_args``.

    It checks what the function returns where a class is expected, but not where something that can be called is.
    """
    for key, path in flatten(configuration):
        if key.endswith(".class_path") and isinstance(path, str) and _is_function(path):
            raise UserError(
                f"{describe_place(written, value=path)}{key} is {path!r}, a function, which would be called with the "
                "init_args; a class_path names a class. Where a function is meant, name it alone: "
                f"{key.removesuffix('.class_path')}: {path}."
            )


def _is_function(path: str) -> bool:
    try:
        return inspect.isroutine(import_object(path))
    except ValueError:  # in a value of any type, where it stands for nothing
        return False


def check_numbers(options: Mapping[str, Any], written: Sequence[Entry]) -> None:
    """Refuse NaN, infinity, whole numbers of more than 64 bits, and seeds that numpy does not take."""
    leaves = dict(flatten(options))
    paths = {key.removesuffix("class_path"): str(path) for key, path in leaves.items() if key.endswith(".class_path")}
    foreign = tuple(owner for owner, path in paths.items() if not path.startswith(OURS))
    for full, leaf in leaves.items():
        if full.startswith(foreign) or "kwargs." in full:
            continue
        key, wanted = full.replace(".init_args.", "."), ""
        for value in leaf if isinstance(leaf, list | tuple) else [leaf]:
            shown = str(value)
            if isinstance(value, float) and not math.isfinite(value):
                wanted = "a finite number"
            elif isinstance(value, int) and not -(2**63) <= value < 2**63:
                shown, wanted = f"a number of {value.bit_length()} bits", "a whole number of at most 64 bits"
            elif key in ("seed_everything", "data.seed") and not (value is None or 0 <= value < SEEDS):
                wanted = f"from 0 to {SEEDS - 1}"
            if wanted:
                raise UserError(f"{describe_place(written, key)}{key} is {shown}; it must be {wanted}.")
