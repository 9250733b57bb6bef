"""Freed memory is used again, by a process that asked for it."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from lgrpo_lightning.distributed.processes import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(8):
    torch.ones(2**25)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**25)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_pieces_are_not_asked_for_anew() -> None:
    assert faults("kept") * 3 < faults("as it is")
