"""The files that a path, a folder or a pattern stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import escape, glob, has_magic
from itertools import takewhile
from pathlib import Path

from lgrpo_lightning.data.readers import POSSIBLE, READERS, find_suffix
from lgrpo_lightning.errors import NotFoundError, UserError

SPLITS = ["train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval", "heldout", "holdout"]
"""Words in names of files and folders that tell one split from another."""


BESIDE = re.compile(
    r"[._].*|.*\.(md|py|crc|lock)|dataset_infos?\.json|state\.json"
    r"|(readme|licen[cs]e|notice|citation|authors|changelog|contributing)(\..*)?",
    re.IGNORECASE,
)
"""Names of files that stand beside data and are none."""


def list_files(text: str) -> list[str] | None:
    """The files of a pattern or of a folder of shards, in order of their names; None where ``text`` is neither.

    Files that stand beside data by their names (``BESIDE``) are passed over, and so are hidden folders.
    """
    if "://" in text:
        return _list_urls(text)
    path = Path(text).expanduser()
    if path.is_file() or any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return None
    if path.is_dir():
        base, paths = path, glob(f"{escape(str(path))}/**/*", recursive=True)
    elif has_magic(text):
        plain = takewhile(lambda part: not has_magic(part), path.parts)
        base, paths = Path(*plain), glob(str(path), recursive=True)
        if not paths:
            raise NotFoundError(f"No file matches {text} (looked in {Path.cwd()}).")
    else:
        return None
    files = sorted(p for p in map(Path, paths) if not p.is_dir() and not BESIDE.fullmatch(p.name))
    if foreign := [str(p.relative_to(base)) for p in files if find_suffix(p) not in READERS]:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise UserError(
            f"{text} holds files that cannot be read: {', '.join(foreign[:3])}{more}. Possible are {POSSIBLE}. "
            f"Turn them into one of these, or name those to be read, such as {base}/*.jsonl."
        )
    if not files and not path.is_dir():
        raise UserError(f"What matches {text} is no data; possible are files {POSSIBLE}.")
    _check_alike(text, base, files)
    return [str(file) for file in files] or None


def _list_urls(text: str) -> list[str]:
    """What a URL names, or matches where it is a pattern: ``hf://``, ``https://`` and all else that fsspec opens."""
    import fsspec

    files, pattern = fsspec.url_to_fs(text)
    urls = [files.unstrip_protocol(name) for name in sorted(files.glob(pattern))] if "*" in text else [text]
    if not urls:
        raise NotFoundError(f"No file matches {text}.")
    if foreign := [url for url in urls if find_suffix(url) not in READERS]:
        raise UserError(f"{foreign[0]}: cannot read {find_suffix(foreign[0]) or 'it'}. Possible are {POSSIBLE}.")
    return urls


def _check_alike(text: str, base: Path, files: Sequence[Path]) -> None:
    """Refuse files of several kinds or splits, or one under two names."""
    kinds = sorted({find_suffix(p) for p in files})
    if len(kinds) > 1:
        raise UserError(
            f"{text} holds files of several kinds ({', '.join(kinds)}), which may be the same rows twice. Name one "
            f"kind, such as {base}/*{kinds[0]}."
        )
    if len({p.resolve() for p in files}) < len(files):
        raise UserError(f"{text} holds a file under two names (a link), which would be the same rows twice.")
    splits = sorted({_find_split(p.relative_to(base)) for p in files} - {""})
    if splits and len({_find_split(p.relative_to(base)) for p in files}) > 1:
        others = " beside files of none" if len(splits) == 1 else ""
        raise UserError(
            f"{text} holds files of several splits ({', '.join(splits)}{others}), which would be one set. Name "
            f"those of one, such as {base}/{splits[-1]}*{kinds[0]}."
        )


def _find_split(path: Path) -> str:
    """The split that a name tells of; "" where it tells of none.

    >>> [_find_split(Path(p)) for p in ("train-00000-of-00002.parquet", "test/0.jsonl", "a.jsonl")]
    ['train', 'test', '']
    """
    return next((word for word in re.split(r"[^a-z]+", str(path).lower()) if word in SPLITS), "")
