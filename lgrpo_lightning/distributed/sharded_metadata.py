"""The index of a checkpoint that is a folder: a pickle, read only where it names nothing but its own classes."""

from __future__ import annotations

import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

INDEX, REST = ".metadata", "meta.pt"
"""Files of a folder beside its shards: what they hold, and all that is neither weights nor optimizer."""
MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
"""Where the classes of an index are defined."""
PLAIN = {
    ("collections", "OrderedDict"),
    ("builtins", "set"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),  # a name of a layout → the layout
    *((module, kind) for module in ("pathlib", "pathlib._local") for kind in ("PosixPath", "WindowsPath")),
}
"""What else an index names."""


def reader(folder: str | Path) -> Any:
    """The reader of ``folder``, whose index was looked through.

    Raises:
        UnpicklingError: The index names something else, which could run code.
    """
    from lgrpo_lightning.distributed.sharded_reading import CheckedReader

    with (Path(folder) / INDEX).open("rb") as file:
        _IndexAlone(file).load()
    return CheckedReader(folder)


class _IndexAlone(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The class called so, where an index may hold it."""
        known = module in (*MODULES, "torch") and "." not in name
        found = getattr(import_module(module), name, None) if known else None
        own = isinstance(found, type) and found.__module__ == module
        if own or isinstance(found, torch.dtype) or (module, name) in PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is no part of a checkpoint's index")
