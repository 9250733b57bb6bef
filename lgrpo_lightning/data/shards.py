"""The files that a path, a folder or a pattern stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import escape, glob, has_magic
from pathlib import Path

from lgrpo_lightning.data.readers import POSSIBLE, READERS, suffix
from lgrpo_lightning.errors import NotFoundError, UserError

SPLITS = [
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
]
"""Words in names of files and folders that tell one split from another."""


BESIDE = re.compile(
    r"[._].*|.*\.(md|py|crc|lock)|dataset_infos?\.json|state\.json"
    r"|(readme|licen[cs]e|notice|citation|authors|changelog|contributing)(\..*)?",
    re.IGNORECASE,
)
"""Names of files that stand beside data and are none."""


def files_of(text: str) -> list[str] | None:
    """The files of a pattern or of a folder of shards, in order of their names; None where ``text`` is neither.

    Files that stand beside data by their names (``BESIDE``) are passed over, and so are hidden folders.

    Raises:
        FileNotFoundError: A pattern that matches nothing.
        ValueError: Files that cannot be read, of several kinds, or of several splits.
    """
    if "://" in text:
        return _urls(text)
    path = Path(text).expanduser()
    if path.is_file() or any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return None
    if path.is_dir():
        base, found = path, glob(f"{escape(str(path))}/**/*", recursive=True)
    elif has_magic(text):
        base, found = glob_root(text), glob(str(path), recursive=True)
        if not found:
            raise NotFoundError(f"No file matches {text} (looked in {Path.cwd()}).")
    else:
        return None
    files = sorted(p for p in map(Path, found) if not p.is_dir() and not BESIDE.fullmatch(p.name))
    if foreign := [str(p.relative_to(base)) for p in files if suffix(p) not in READERS]:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise UserError(
            f"{text} holds files that cannot be read: {', '.join(foreign[:3])}{more}. Possible are {POSSIBLE}. "
            f"Turn them into one of these, or name those to be read, such as {base}/*.jsonl."
        )
    if not files and not path.is_dir():
        raise UserError(f"What matches {text} is no data; possible are files {POSSIBLE}.")
    _check_alike(text, base, files)
    return [str(file) for file in files] or None


def _urls(text: str) -> list[str]:
    """What a URL names, or matches where it is a pattern: ``hf://``, ``https://`` and all else that fsspec opens."""
    import fsspec

    files, found = fsspec.url_to_fs(text)
    urls = [files.unstrip_protocol(name) for name in sorted(files.glob(found))] if "*" in text else [text]
    if not urls:
        raise NotFoundError(f"No file matches {text}.")
    if foreign := [url for url in urls if suffix(url) not in READERS]:
        raise UserError(f"{foreign[0]}: cannot read {suffix(foreign[0]) or 'it'}. Possible are {POSSIBLE}.")
    return urls


def _check_alike(text: str, base: Path, files: Sequence[Path]) -> None:
    """Refuse files of several kinds or splits, or one under two names."""
    kinds = sorted({suffix(p) for p in files})
    if len(kinds) > 1:
        raise UserError(
            f"{text} holds files of several kinds ({', '.join(kinds)}), which may be the same rows twice. Name one "
            f"kind, such as {base}/*{kinds[0]}."
        )
    if len({p.resolve() for p in files}) < len(files):
        raise UserError(f"{text} holds a file under two names (a link), which would be the same rows twice.")
    splits = sorted({_split(p.relative_to(base)) for p in files} - {""})
    if splits and len({_split(p.relative_to(base)) for p in files}) > 1:
        others = " beside files of none" if len(splits) == 1 else ""
        raise UserError(
            f"{text} holds files of several splits ({', '.join(splits)}{others}), which would be one set. Name "
            f"those of one, such as {base}/{splits[-1]}*{kinds[0]}."
        )


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
