"""The checksums of what ``torch.save`` wrote: a zip archive, which torch reads without looking at them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO


def damaged_entry(archive: Path | IO[bytes]) -> str:
    """The first entry whose bytes do not have its checksum, or what else is wrong; "" for nothing. Reads all of it."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.testzip() or ""
    except Exception as error:  # a flipped bit can make zipfile raise anything
        return f"{type(error).__name__}: {error}"
