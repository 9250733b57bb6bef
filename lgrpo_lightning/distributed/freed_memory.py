"""Memory that was freed stays with the process on a CPU: asking for it again is dear."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of glibc's ``mallopt``."""


def keep_freed_memory() -> bool:
    """Let glibc reuse large pieces instead of giving each back to the kernel, which clears every page anew.

    Logits are some hundred megabytes, made and freed several times a step; clearing their pages took a sixth of an
    update. What a process holds stays at its peak. Other systems and C libraries are left as they are.

    Returns:
        Whether it was set.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(M_MMAP_MAX, 0) and library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
