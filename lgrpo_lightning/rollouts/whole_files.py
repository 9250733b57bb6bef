"""Atomic writes, and errors for a full disk."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.names import set_aside, show_path

FULL = (errno.ENOSPC, errno.EDQUOT)
CUT = ("RuntimeError", "CheckpointException", "SafetensorError")
"""Errors of torch and safetensors for a failed write, which have no errno."""
NO_ROOM = 1 << 20
"""If fewer bytes are free, a write that failed without a reason is reported as a full disk."""


class UnwritableError(OSError, UserError):
    """A file of a run cannot be written."""


class DiskFullError(UnwritableError):
    """The disk is full; the old file is unchanged."""


def make_folder(folder: Path) -> None:
    """Make a folder of a run; what somebody put in its place, a file or a link to nowhere, is kept beside it."""
    if os.path.lexists(folder) and not folder.is_dir():
        with suppress(FileNotFoundError):  # another rank was faster
            kept = set_aside(folder)
            rank_zero_warn(
                f"{show_path(folder)} is no folder any more. It is kept as {show_path(kept)}, and the folder made anew."
            )
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a hidden name beside ``path`` to write to; afterwards the file is on the disk and takes its place.

    A ``path`` that is such a hidden name already (``.….part``) is written as it is.

    Raises:
        UnwritableError: It cannot be written, for want of room (``DiskFullError``), say. The unfinished file is
            removed, an older ``path`` is untouched.
    """
    hidden = path if path.suffix == ".part" else path.with_name(f".{path.name}.part")
    with explain_if_unwritable(path):
        make_folder(path.parent)
        try:
            yield hidden
            flush_to_disk(hidden)  # before it is renamed: a power cut would leave an empty file
        except BaseException:
            with suppress(OSError):
                hidden.unlink()
            raise
        os.replace(hidden, path)
        flush_to_disk(path.parent)  # the name


def write_whole(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file (UTF-8) atomically.

    Args:
        private: Nobody else may read it.

    Raises:
        UnwritableError: With the reason; an older ``path`` is untouched.
    """
    with whole_file(path) as hidden:
        if private:
            hidden.touch()
            hidden.chmod(0o600)
        hidden.write_text(text, encoding="utf-8")


@contextmanager
def explain_if_unwritable(path: Path) -> Iterator[None]:
    """Say which file cannot be written, why and what to do.

    Raises:
        DiskFullError: There is no room; with how much there is.
        UnwritableError: The system refuses it otherwise.
    """
    try:
        yield
    except BaseException as error:  # torch's CheckpointException is no Exception
        code = _find_errno(error, path)
        if code is None or isinstance(error, UnwritableError):
            raise
        resume = "then resume with --ckpt_path last"
        if code in FULL:
            raise DiskFullError(
                errno.ENOSPC,
                f"No room to write {show_path(path)}: {_count_free(path) / 2**20:.1f} MiB are left on its disk or in "
                "its quota. What was written before is untouched. Make room, or copy the run's folder to a larger disk "
                f"and set trainer.default_root_dir; {resume}",
            ) from error
        reason = getattr(error, "strerror", None) or os.strerror(code)
        why = f" ({reason}). Make it possible, or copy the run's folder and set trainer.default_root_dir"
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if code == errno.EFBIG and limit != resource.RLIM_INFINITY:
            why = f": a file of this process may have {limit:,} bytes (ulimit -f). Raise that"
        raise UnwritableError(code, f"{show_path(path)} cannot be written{why}; {resume}") from error


def _find_errno(error: BaseException, path: Path) -> int | None:
    """Why the system refused a write; None where it did not."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error.__context__, OSError) and error.__context__.errno in FULL:
        return error.__context__.errno
    if type(error).__name__ in CUT:
        if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
            return errno.EFBIG
        return errno.ENOSPC if _count_free(path) < NO_ROOM else None
    return None


def _count_free(path: Path) -> int:
    """Free bytes where ``path``, or its nearest existing parent, is."""
    return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free


def flush_to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise  # some network file systems do this for files only
    finally:
        os.close(handle)
