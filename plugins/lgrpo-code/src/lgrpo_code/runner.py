"""Programs in sandboxes: started, limited in time and output, and gone afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SANDBOX = Path(__file__).with_name("sandbox.py")
UNSHARE = shutil.which("unshare", path=os.defpath + ":/usr/sbin:/sbin")
"""Of util-linux, which every distribution has."""
LINUX = (5, 14)
"""The first that counts processes in each namespace of users, and not all of a user together."""
SETUP = 60.0
"""Seconds in which a sandbox has to stand."""
REMEDY = (
    "Programs are run in namespaces of their own or not at all. Allow them: sysctl user.max_user_namespaces=10000, "
    "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0 (those that the system has); "
    "in Docker --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined. Or take "
    "another reward."
)


class SandboxError(RuntimeError):
    """The machine does not let programs be run apart, so that none is run."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may take."""

    seconds: float = 10.0  # of time; of processor time as much, rounded up
    memory_mb: int = 512  # address space of each of its processes
    output_kb: int = 64  # what it may write to standard output and error; more ends it
    disk_mb: int = 16  # what it may write to files
    processes: int = 8  # processes and threads at a time


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program and what it reads."""

    code: str
    stdin: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a program ended, and what it wrote."""

    status: int | None  # 128 and more for a signal; None where it was ended for its time or its output
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


def check() -> None:
    """Try one program.

    Raises:
        SandboxError: The machine refuses, with what to change.
    """
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    if sys.platform != "linux" or not found or (int(found[1]), int(found[2])) < LINUX:
        raise SandboxError(
            f"lgrpo-code runs programs on Linux {LINUX[0]}.{LINUX[1]} or newer, which counts the processes of each "
            f"program apart; this is {platform.system()} {platform.release()}. Take another reward."
        )
    result = run(Program(code="print(input())", stdin="ready"), Limits())
    if result.output != "ready\n":
        raise SandboxError(f"A first program in the sandbox should have written 'ready', and gave {result}. {REMEDY}")


def run(program: Program, limits: Limits) -> Result:
    """Run one program to its end, or end it; nothing that it has started is left.

    Raises:
        SandboxError: The machine refuses.
    """
    if UNSHARE is None:
        raise SandboxError("lgrpo-code refuses to run: there is no unshare; install the package util-linux.")
    superuser = os.geteuid() == 0
    kinds = ["--mount", "--pid", "--net", "--ipc", "--uts"] + ["--map-root-user"] * (not superuser)
    with contextlib.ExitStack() as stack:
        status, theirs = os.pipe()
        stack.callback(os.close, status)
        trainer = os.pidfd_open(os.getpid())
        stack.callback(os.close, trainer)
        init = [sys.executable, "-I", "-S", str(SANDBOX), str(theirs), str(trainer)]
        try:
            process = subprocess.Popen(
                [UNSHARE, *kinds, "--fork", "--kill-child", *init],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs, trainer),
                start_new_session=True,
                env={"PATH": "/usr/bin:/bin"},
            )
        finally:
            os.close(theirs)
        stack.callback(_end, process)
        request = _request(program, limits, superuser)
        with contextlib.suppress(BrokenPipeError):  # it says why on standard error
            assert process.stdin
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        output, error, said = _read(process, status, limits)
    if not said.startswith(b"started\n"):
        raise SandboxError(f"lgrpo-code refuses to run: {error.strip() or 'the sandbox does not start'}. {REMEDY}")
    code = said.split(b"\n")[1]
    return Result(status=_status(int(code)) if code else None, output=output, error=error)


def _request(program: Program, limits: Limits, superuser: bool) -> dict[str, object]:
    return {
        "code": program.code,
        "stdin": program.stdin,
        "superuser": superuser,
        "python": os.path.realpath(sys.executable),
        "python_home": os.path.realpath(sys.base_prefix),
        "disk_mb": limits.disk_mb,
        "limits": {
            "RLIMIT_CPU": int(limits.seconds) + 1,
            "RLIMIT_AS": limits.memory_mb << 20,
            "RLIMIT_FSIZE": limits.disk_mb << 20,
            "RLIMIT_NPROC": limits.processes,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
            "RLIMIT_STACK": 16 << 20,  # of each thread, out of the same address space
        },
    }


def _status(code: int) -> int:
    return code if code >= 0 else 128 - code


def _read(process: subprocess.Popen[bytes], status: int, limits: Limits) -> tuple[str, str, bytes]:
    """(standard output, standard error, what the sandbox said), until all have ended or a limit is met."""
    assert process.stdout
    assert process.stderr
    until, most, started = time.monotonic() + SETUP, limits.output_kb << 10, False
    out, err = process.stdout.fileno(), process.stderr.fileno()
    texts = {out: bytearray(), err: bytearray(), status: bytearray()}
    with selectors.DefaultSelector() as selector:
        for descriptor in texts:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map() and (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, 1 << 16)
                texts[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
            if texts[status] and not started:
                until, started = time.monotonic() + limits.seconds, True
            if len(texts[out]) + len(texts[err]) > most:
                del texts[status][len(b"started\n") :]
                break
    output, error = (bytes(texts[d][:most]).decode("utf-8", "replace") for d in (out, err))
    return output, error, bytes(texts[status])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have the first process of the namespaces leave, with which all in them end; else kill it."""
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(b"\n")
        process.stdin.flush()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()  # unshare takes the first process with it
    with process:
        pass
