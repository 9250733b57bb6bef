"""One run at a time writes into a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.whole_files import make_folder

LOCK = ".lock"


class FolderLock:
    """Held by the process that writes into the folder of a run; the system takes it away where that process dies.

    A record lock (``fcntl.lockf``): children that are forked do not have it, and network file systems know it.
    """

    def __init__(self) -> None:
        self._handle: int | None = None
        self.holder = ""  # what the file says of this process

    def take(self, folder: Path) -> None:
        """Take the folder, for as long as this process lives or until ``release``.

        Raises:
            ValueError: Another run writes there.
        """
        if self._handle is not None:
            return
        make_folder(folder)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):  # a file system without locks
                os.close(handle)
                return
            holder = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise UserError(
                f"Another run writes into {folder} ({holder or 'it does not say which'}). Wait for its end or stop it, "
                "or give this run a folder of its own: trainer.default_root_dir."
            ) from error
        os.ftruncate(handle, 0)
        self.holder = f"process {os.getpid()} on {socket.gethostname()}\n"
        os.write(handle, self.holder.encode())
        os.fsync(handle)  # other machines read it
        self._handle, self._file = handle, folder / LOCK

    def is_lost(self) -> bool:
        """Whether the lock file was removed or moved."""
        try:
            return self._handle is not None and not os.path.samestat(os.fstat(self._handle), self._file.stat())
        except OSError:
            return True

    def release(self) -> None:
        """Release the lock for another run."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def is_taken_by(folder: Path, holder: str) -> bool:
    """Whether this process finds the lock of ``holder`` there. Not for the holder: to close the file ends its lock."""
    try:
        return (folder / LOCK).read_text() == holder
    except OSError:
        return False
