"""The parent's end of one checking process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lgrpo_lightning.rewards.checks import RewardError

CHECKER = Path(__file__).with_name("checker.py")
START_SECONDS = 120.0
"""How long a new process may take to import math-verify, which is no answer's fault."""

Process = subprocess.Popen[bytes]


class Worker:
    """One checking process: started when first asked, killed at a time-out, replaced when it is gone.

    It is a fresh interpreter, not a fork: safe beside torch's threads, and no script is imported again.
    """

    def __init__(self, memory_mb: int) -> None:
        self.memory_mb = memory_mb
        self.process: Process | None = None

    def verdict(self, request: Mapping[str, Any], seconds: float) -> str:
        """What the checker says of ``request``; "timeout" after ``seconds``, "crash" if the process ended."""
        process = self._running()
        line, late = _exchanged(process, {**request, "seconds": seconds}, seconds)
        if not line.endswith(b"\n"):
            self.close()
            return "timeout" if late else "crash"
        reply = json.loads(line)
        if late or reply["last"]:
            self.close()
        return str(reply["verdict"])

    def close(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what was not sent any more
                pipe.close()  # type: ignore[union-attr]

    def _running(self) -> Process:
        if self.process is not None and self.process.poll() is not None:
            self.close()
        if self.process is None:
            self.process = _started(self.memory_mb)
            line, _ = _exchanged(self.process, None, START_SECONDS)
            self._refuse_unready(line)
        return self.process

    def _refuse_unready(self, line: bytes) -> None:
        error = json.loads(line)["error"] if line else f"it ended, or took over {START_SECONDS:.0f} seconds"
        if error:
            self.close()
            raise RewardError(
                f"A checking process of lgrpo-math ({sys.executable} {CHECKER}) did not start: {error}. "
                "It needs math-verify: pip install 'math-verify[antlr4_13_2]'."
            )


def _started(memory_mb: int) -> Process:
    """A new process that finds the modules this one finds."""
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(
        [sys.executable, "-P", str(CHECKER), str(memory_mb)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )


def _exchanged(process: Process, request: Mapping[str, Any] | None, seconds: float) -> tuple[bytes, bool]:
    """(the line that comes back, empty if the process ended first; whether it was killed after ``seconds``).

    Args:
        request: What is sent before; None: nothing.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        with contextlib.suppress(OSError):  # the process ended: there is nothing to read then either
            if request is not None:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
        line = process.stdout.readline()
    finally:
        timer.cancel()
        timer.join()  # so that it cannot fire into the next answer
    return line, late.is_set()
