"""Processes of this machine, and what the system does for this one."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import sys
from functools import cache
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of glibc's ``mallopt``."""
LAUNCHER = "_LGRPO_LAUNCHER"
"""Environment variable: the process whose Lightning launcher started this one."""


def is_process_gone(pid: int) -> bool:
    """Whether a process of this machine does not run any more; one that nobody has waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return Path("/proc/self/stat").exists() or not _answers(pid)
    return state in ("Z", "X")


@cache
def name_machine() -> str:
    """This machine and its numbering of processes: of two containers there are two."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def end_with_launcher(status: int) -> None:
    """End this process when the one whose Lightning launcher started it is gone, until ``RankWatch`` takes over.

    Called in both: the launcher leaves its number in the environment. torchrun's processes are left alone.
    """
    launcher = int(os.environ.get(LAUNCHER, "0"))
    if os.environ.get("LOCAL_RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" in os.environ:
        os.environ[LAUNCHER] = str(os.getpid())
    elif launcher == os.getppid():
        signal_at_parents_end(signal.SIGKILL)
    elif launcher and is_process_gone(launcher):
        print("lgrpo: the process that launched this one is gone.", file=sys.stderr, flush=True)
        os._exit(status)


def signal_at_parents_end(signum: int) -> None:
    """Have Linux send this process a signal when its parent ends; 0 for none."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signum, 0, 0, 0)  # PR_SET_PDEATHSIG


@cache
def keep_freed_memory() -> bool:
    """Let glibc reuse large pieces instead of giving each back to the kernel, which clears every page anew.

    Logits are some hundred megabytes, made and freed several times a step: clearing their pages took a quarter of the
    time of head and loss. What a process holds stays at its peak. To be called before other threads allocate, as
    ``mallopt`` is not safe beside them: once a process, whatever trainers it makes later. Other systems and C libraries
    are left as they are (False).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(M_MMAP_MAX, 0) and library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's
    return True
