"""Reading the shards of a checkpoint: every entry's checksum is compared, and bytes are read without running code."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader

from lgrpo_lightning.distributed.archive import damaged_entry
from lgrpo_lightning.errors import UserError


class DamagedError(UserError, OSError):
    """An entry of a checkpoint does not have its checksum."""


class CheckedReader(FileSystemReader):
    """Torch's reader, which compares the checksums of what this rank reads: each entry is an archive with its own."""

    def read_data(self, plan: Any, planner: Any) -> Any:
        """Read what ``plan`` names.

        Raises:
            DamagedError: An entry is damaged.
        """
        for item in plan.items:
            place = self.storage_data[item.storage_index]
            with (Path(self.path) / place.relative_path).open("rb") as file:
                file.seek(place.offset)
                entry = BytesIO(file.read(place.length))
            if bad := damaged_entry(entry):
                raise DamagedError(f"{item.storage_index.fqn} in {place.relative_path} is damaged ({bad})")
        return super().read_data(plan, planner)


class PlainPlanner(DefaultLoadPlanner):
    """Takes tensors, numbers and text: torch's own planner unpickles whatever else an entry holds."""

    def load_bytes(self, read_item: Any, value: BytesIO) -> None:
        """Take an entry that is no tensor.

        Raises:
            UnpicklingError: It could run code.
        """
        torch.save(torch.load(value, map_location="cpu", weights_only=True), plain := BytesIO())
        plain.seek(0)
        super().load_bytes(read_item, plain)


class WholePlanner(PlainPlanner, _EmptyStateDictLoadPlanner):
    """The same, without a state to fill: it takes what the index names."""
