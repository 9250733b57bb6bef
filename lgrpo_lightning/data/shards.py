"""The files that a path, a folder or a pattern stands for."""

from __future__ import annotations

import re
from collections.abc import Collection
from glob import glob, has_magic
from pathlib import Path

SPLITS = (
    "train",
    "training",
    "test",
    "testing",
    "validation",
    "valid",
    "val",
    "dev",
    "eval",
    "heldout",
    "holdout",
)
"""Words in names of files and folders that tell one split from another."""


def suffix(path: Path) -> str:
    """What a file is by its name: ".jsonl", also of "train.jsonl.gz"; ".jsonl.gz" there.

    >>> suffix(Path("a.b.JSONL")), suffix(Path("train.jsonl.gz"))
    ('.jsonl', '.jsonl.gz')
    """
    last = path.suffix.lower()
    return f"{path.with_suffix('').suffix.lower()}{last}" if last == ".gz" else last


def files_of(text: str, readable: Collection[str]) -> list[Path] | None:
    """The files of a pattern or of a folder of shards, in order of their names; None where ``text`` is neither.

    Raises:
        FileNotFoundError: A pattern that matches nothing.
        ValueError: Files of several kinds, or of several splits.
    """
    path = Path(text).expanduser()
    if path.is_file():
        return None
    if path.is_dir():
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return None
        found = [p for p in path.rglob("*") if not any(x.startswith(".") for x in p.relative_to(path).parts)]
    elif has_magic(text):
        found = [Path(p) for p in glob(str(path), recursive=True)]
        if not found:
            raise FileNotFoundError(f"No file matches {text} (looked in {Path.cwd()}).")
    else:
        return None
    files = sorted(p for p in found if p.is_file() and suffix(p) in readable)
    kinds = sorted({suffix(p) for p in files})
    if len(kinds) > 1:
        raise ValueError(
            f"{text} holds files of several kinds ({', '.join(kinds)}), which may be the same rows twice. Name one "
            f"kind, such as {path if path.is_dir() else path.parent}/*{kinds[0]}."
        )
    base = path if path.is_dir() else glob_root(text)
    splits = sorted({_split(p.relative_to(base)) for p in files} - {""}) if len(files) > 1 else []
    if splits and len({_split(p.relative_to(base)) for p in files}) > 1:
        others = " beside files of none" if len(splits) == 1 else ""
        raise ValueError(
            f"{text} holds files of several splits ({', '.join(splits)}{others}), which would be one set. Name "
            f"those of one, such as {base}/{splits[-1]}*{kinds[0]}."
        )
    if not files and has_magic(text):
        raise ValueError(f"What matches {text} cannot be read; possible are files {', '.join(readable)}.")
    return files or None


def _split(path: Path) -> str:
    """The split that a name tells of; "" where it tells of none.

    >>> _split(Path("train-00000-of-00002.parquet")), _split(Path("test/0.jsonl")), _split(Path("a.jsonl"))
    ('train', 'test', '')
    """
    return next((word for word in re.split(r"[^a-z]+", str(path).lower()) if word in SPLITS), "")


def glob_root(pattern: str) -> Path:
    """The folder of a pattern: its parts before the first that is one."""
    parts = Path(pattern).expanduser().parts
    first = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts))
    return Path(*parts[:first])
