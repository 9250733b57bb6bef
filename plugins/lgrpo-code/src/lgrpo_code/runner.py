"""Programs in sandboxes: started, limited in time and output, and gone afterwards."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SANDBOX = Path(__file__).with_name("sandbox.py")
REFUSED = 97


class SandboxError(RuntimeError):
    """The kernel does not let programs be run apart, so that none is run."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may take.

    Attributes:
        seconds: Of time; of processor time as much, rounded up.
        memory_mb: Address space of each of its processes.
        output_kb: What it may write to standard output and error; more ends it.
        disk_mb: What it may write to files.
        processes: Processes and threads at a time.
    """

    seconds: float = 10.0
    memory_mb: int = 512
    output_kb: int = 64
    disk_mb: int = 16
    processes: int = 8


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program and what it reads."""

    code: str
    stdin: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a program ended.

    Attributes:
        status: Its exit status, 128 and more for a signal; None where it was ended for its time or its output.
        output: What it wrote to standard output.
        error: The same of standard error.
    """

    status: int | None
    output: str
    error: str


def run_all(programs: Sequence[Program], limits: Limits, *, workers: int) -> list[Result]:
    """Run programs, ``workers`` at a time.

    Raises:
        SandboxError: The kernel refuses.
    """
    if not programs:
        return []
    with ThreadPoolExecutor(max(1, min(workers, len(programs))), "lgrpo-code") as threads:
        return list(threads.map(lambda program: run(program, limits), programs))


def run(program: Program, limits: Limits) -> Result:
    """Run one program to its end, or end it.

    Raises:
        SandboxError: The kernel refuses.
    """
    request = {
        "code": program.code,
        "stdin": program.stdin,
        "python": os.path.realpath(sys.executable),
        "python_home": os.path.realpath(sys.base_prefix),
        "cpu_seconds": int(limits.seconds) + 1,
        "memory_mb": limits.memory_mb,
        "disk_mb": limits.disk_mb,
        "processes": limits.processes,
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(SANDBOX)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    try:
        assert process.stdin
        process.stdin.write(json.dumps(request).encode())
        process.stdin.close()
        output, error, ended = _read(process, limits)
    finally:
        _end(process)
    status = process.returncode if ended else None
    said = error.decode("utf-8", "replace")
    if status == REFUSED and "lgrpo-code refuses to run" in said:
        raise SandboxError(
            f"{said.strip()}. Programs are run in namespaces of their own or not at all: allow unprivileged user "
            "namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0; in Docker "
            "--security-opt seccomp=unconfined), or take another reward."
        )
    return Result(status=status, output=output.decode("utf-8", "replace"), error=said)


def _read(process: subprocess.Popen[bytes], limits: Limits) -> tuple[bytes, bytes, bool]:
    """(standard output, standard error, whether it ended by itself)."""
    assert process.stdout
    assert process.stderr
    until, most = time.monotonic() + limits.seconds, limits.output_kb << 10
    texts = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in texts:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            left = until - time.monotonic()
            if left <= 0:
                return bytes(texts[process.stdout]), bytes(texts[process.stderr]), False
            for key, _ in selector.select(left):
                stream = key.fileobj
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(stream)
                texts[stream] += chunk  # type: ignore[index]
            if sum(map(len, texts.values())) > most:
                return bytes(texts[process.stdout])[:most], bytes(texts[process.stderr])[:most], False
    try:
        process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return bytes(texts[process.stdout]), bytes(texts[process.stderr]), False
    return bytes(texts[process.stdout]), bytes(texts[process.stderr]), True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it; with the first process of its namespace all of them end."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream and not stream.closed:
            stream.close()
