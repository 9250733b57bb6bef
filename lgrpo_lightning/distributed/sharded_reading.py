"""Reading checkpoints without running code that they name, and comparing the checksums of what is read.

A file of ``torch.save`` is a zip archive, which torch reads without looking at its checksums; an entry of a shard is
such an archive, too. The index of a folder of shards is a pickle.
"""

from __future__ import annotations

import pickle
import zipfile
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader

from lgrpo_lightning.errors import UserError

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


class DamagedError(OSError, UserError):
    """An entry of a checkpoint does not have its checksum."""


def find_damaged_entry(archive: Path | IO[bytes]) -> str:
    """The first entry whose bytes do not have its checksum, or what else is wrong; "" for nothing. Reads all of it."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.testzip() or ""
    except Exception as error:  # a flipped bit can make zipfile raise anything
        return f"{type(error).__name__}: {error}"


class CheckedReader(FileSystemReader):
    """Torch's reader of a folder whose index names nothing that could run code; it compares checksums."""

    def __init__(self, folder: str | Path) -> None:
        with (Path(folder) / INDEX).open("rb") as file:
            _IndexAlone(file).load()
        super().__init__(folder)

    def read_data(self, plan: Any, planner: Any) -> Any:
        """Read what ``plan`` names for this rank; an error where an entry is damaged."""
        for item in plan.items:
            place = self.storage_data[item.storage_index]
            with (Path(self.path) / place.relative_path).open("rb") as file:
                file.seek(place.offset)
                entry = BytesIO(file.read(place.length))
            if bad := find_damaged_entry(entry):
                raise DamagedError(f"{item.storage_index.fqn} in {place.relative_path} is damaged ({bad})")
        return super().read_data(plan, planner)


class PlainPlanner(DefaultLoadPlanner):
    """Takes tensors, numbers and text: torch's own planner unpickles whatever else an entry holds."""

    def load_bytes(self, read_item: Any, value: BytesIO) -> None:
        """Take an entry that is no tensor; an error where it could run code."""
        torch.save(torch.load(value, map_location="cpu", weights_only=True), plain := BytesIO())
        plain.seek(0)
        super().load_bytes(read_item, plain)


class WholePlanner(PlainPlanner, _EmptyStateDictLoadPlanner):
    """The same, without a state to fill: it takes what the index names."""


class _IndexAlone(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The class called so, where an index may hold it."""
        known = module in (*MODULES, "torch") and "." not in name
        value = getattr(import_module(module), name, None) if known else None
        own = isinstance(value, type) and value.__module__ == module
        if own or isinstance(value, torch.dtype) or (module, name) in PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is no part of a checkpoint's index")
