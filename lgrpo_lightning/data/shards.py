"""The files that a path, a folder or a pattern stands for."""

from __future__ import annotations

import re
from collections.abc import Collection
from glob import glob, has_magic
from pathlib import Path

SHARD = re.compile(r"(.+?)[-_.]?\d+([-_]of[-_]\d+)?")
"""Name of a shard: its set, a number, perhaps of how many."""


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
    sets = sorted({m[1] for p in files if (m := SHARD.fullmatch(p.name.removesuffix(kinds[0]))) and m[2]})
    if len(sets) > 1:
        raise ValueError(
            f"{text} holds several splits ({', '.join(sets)}). Name one of them, such as "
            f"{files[0].parent}/{sets[0]}-*{kinds[0]}."
        )
    if not files and has_magic(text):
        raise ValueError(f"What matches {text} cannot be read; possible are files {', '.join(readable)}.")
    return files or None
