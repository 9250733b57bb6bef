"""Whether a checkpoint is whole, told without loading it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from lgrpo_lightning.distributed.sharded_reading import INDEX, REST, CheckedReader


def unreadable(path: Path) -> str:
    """Why the checkpoint, a file or a folder of shards, is not whole; "" if it is.

    Looked at are the directory of a file and the sizes of what it names, not every byte of the weights.
    """
    return _folder(path) if path.is_dir() else _file(path)


def _file(path: Path) -> str:
    """What is wrong with a file of ``torch.save``: a zip archive with the directory at its end."""
    if not path.is_file():
        return "there is no such file"
    if path.stat().st_size == 0:
        return "it is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            if not pickled:
                return "it is a zip archive, but not one that torch.save writes"
            archive.read(pickled[0])  # checks its CRC
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        return f"it is cut off or damaged ({error})"
    return ""


def _folder(path: Path) -> str:
    """What is wrong with a folder of shards (torch.distributed.checkpoint) and ``meta.pt``."""
    for name in (INDEX, REST):
        if not (path / name).is_file():
            return f"the folder lacks {name}, so its writing was cut off"
    if reason := _file(path / REST):
        return f"{REST}: {reason}"
    try:
        entries = CheckedReader(path).read_metadata().storage_data
    except Exception as error:
        return f"{INDEX} is damaged ({type(error).__name__}: {error})"
    ends: dict[str, int] = {}
    for entry in entries.values():
        ends[entry.relative_path] = max(ends.get(entry.relative_path, 0), entry.offset + entry.length)
    for name, end in sorted(ends.items()):
        if not (path / name).is_file():
            return (
                f"the folder lacks the shard {name}. Every rank wrote a file: copy the folder with those of all "
                "nodes"
            )
        if (size := (path / name).stat().st_size) < end:
            return f"the shard {name} is cut off ({size} of {end} bytes)"
    return ""
