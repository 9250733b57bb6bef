"""What the README says that a program may do and may not, line by line, with the attacks themselves."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from lgrpo_code import CodeTests, runner
from lgrpo_code.runner import Limits, Program, SandboxError, check, run, run_all

from lgrpo_lightning.errors import UserError

README = Path(__file__).parents[1] / "README.md"
MB = 1 << 20
LINES: set[str] = set()
try:
    check()
    REFUSES = ""
except SandboxError as error:
    REFUSES = str(error)
needs_namespaces = pytest.mark.skipif(bool(REFUSES), reason=REFUSES)


def line(*texts):
    """The lines of the README that a test is about."""
    LINES.update(texts)
    return needs_namespaces


def written(code, *, stdin="", **limits):
    """What a program writes that has to end well."""
    result = run(Program(code=code, stdin=stdin), Limits(**limits))
    assert result.status == 0, result
    return result.output


def processes(mark):
    """Processes of this machine whose command line has the mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def gone(mark, seconds=10.0):
    """Whether no process with the mark is left, soon."""
    until = time.monotonic() + seconds
    while processes(mark):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def runaway(mark):
    """A program that leaves its session, clears its parent-death signal, and becomes another one."""
    return (
        "import ctypes, os, sys, signal, time\n"
        "for _ in range(2): os.fork()\n"
        "try: os.setsid()\nexcept OSError: pass\n"
        "for s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
        f"os.execv(sys.executable, [sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600) # {mark}'])\n"
    )


# --- may ---


@line("have `processes` processes and threads at the same time, not counting those of other programs")
def test_processes_are_counted_a_program():
    threads = (
        "import threading\ngate = threading.Barrier(8)\n"
        "group = [threading.Thread(target=gate.wait) for _ in range(7)]\n"
        "for t in group: t.start()\ngate.wait()\nprint('all')\n"
    )
    bomb = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)\n"
    programs = [Program(code=c) for c in (bomb, threads, bomb, threads)]
    results = run_all(programs, Limits(seconds=4, processes=8), workers=4)
    assert [r.output for r in results[1::2]] == ["all\n"] * 2, results
    assert [r.status for r in results[::2]] == [None] * 2


@needs_namespaces
def test_twelve_at_a_time_with_a_thread_each():
    code = "import threading\nt = threading.Thread(target=print, args=('right',)); t.start(); t.join()\n"
    results = run_all([Program(code=code)] * 12, Limits(processes=2), workers=12)
    assert [r.output for r in results] == ["right\n"] * 12


@needs_namespaces
def test_no_more_processes_than_allowed():
    code = (
        "import os, time\nn = 1\n"
        "try:\n    while os.fork(): n += 1\n    time.sleep(60)\nexcept BlockingIOError: print(n)\n"
    )
    assert written(code, processes=5) == "5\n"


@line("read the complete input of its test, of any length")
def test_input_larger_than_the_disk():
    text = "x" * (20 * MB)
    assert written("import sys; print(len(sys.stdin.read()))", stdin=text, disk_mb=16) == f"{len(text)}\n"


@line("write `disk_mb` to files in `/work`, with at most 256 files per MB of `disk_mb`")
def test_files():
    fill = "f = open('/work/f', 'wb')\ntry:\n    while True: f.write(bytes(1 << 16))\nexcept OSError: print(f.tell())"
    assert MB <= int(written(fill, disk_mb=2)) <= 2 * MB
    many = "n = 0\ntry:\n    while True:\n        open(f'/work/{n}', 'w').close(); n += 1\nexcept OSError: print(n)"
    assert 400 < int(written(many, disk_mb=2)) < 512


@line(
    "run for `seconds`, counted from its start",
    "write `output_kb` to standard output and standard error together",
    "use `memory_mb` of address space in each process",
)
def test_time_output_memory():
    began = time.monotonic()
    assert run(Program(code="while True: pass"), Limits(seconds=1)).status is None
    assert time.monotonic() - began < 10
    flood = run(Program(code="while True: print('x' * 10000)"), Limits(output_kb=4))
    assert (flood.status, len(flood.output)) == (None, 4096)
    assert "MemoryError" in run(Program(code="bytearray(200 << 20)"), Limits(memory_mb=128)).error
    assert written("print(len(bytearray(50 << 20)))", memory_mb=128)


@line("read the programs of the system and the standard library of this Python")
def test_reads_the_library():
    assert (
        written("import json, subprocess; print(subprocess.check_output(['/bin/echo', 'here']).decode())") == "here\n\n"
    )


# --- may not ---

REFUSED = {
    "reach a network, including the local network of this machine": [
        ("import socket; socket.create_connection(('127.0.0.1', 22), 1)", "unreachable|refused"),
        ("import socket; socket.getaddrinfo('example.org', 80)", "resolution|not known"),
    ],
    "read home folders, `/etc`, `/proc`, data, or the packages of the Python environment": [
        ("open('/etc/passwd')", "No such file"),
        ("import os; os.listdir('/proc')", "No such file"),
        ("import os; os.listdir('/var')", "No such file"),
        (f"open({str(README)!r})", "No such file|denied"),
        ("import torch", "No module"),
        ("import os; os.chroot('.')", "not permitted"),
    ],
    "write to any folder except `/work`": [
        ("open('/usr/lgrpo', 'w')", "Read-only|denied"),
        ("open('/main.py', 'a')", "Read-only|denied"),
        ("import os; os.mkdir('/new')", "Read-only|denied"),
        ("import os, sys; open(os.path.dirname(os.__file__) + '/new', 'w')", "Read-only|denied"),
    ],
    "become another user, mount file systems, or create namespaces": [
        ("import os; os.setuid(0)", "not permitted|Invalid"),
        (
            "import subprocess; subprocess.run(['/bin/su', '-c', 'id'], check=True)",
            "Error|not permitted|returned",
        ),
        *(
            (
                f"import ctypes, os; c = ctypes.CDLL(None, use_errno=True)\nassert c.{call} == 0, 'not this'",
                "not this",
            )
            for call in (
                "mount(b't', b'/work', b'tmpfs', 0, None)",
                "unshare(0x10000000)",
                "unshare(0x10020000)",
                "unshare(0x20000)",
                "setns(0, 0)",
            )
        ),
    ],
    "see, stop or trace processes that it did not start": [
        ("import os; os.kill(1, 9)", "not permitted"),
        ("import os; os.kill(-1, 19)", "No such process|not permitted"),
        ("import ctypes; assert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0, 'no trace'", "no trace"),
        ("import os; assert os.getppid() != 1 and os.getpid() > 100, 'alone'", "alone"),
    ],
}


@line(*REFUSED)
@pytest.mark.parametrize(("code", "says"), [case for cases in REFUSED.values() for case in cases])
def test_refused(code, says):
    result = run(Program(code=code), Limits())
    assert result.status not in (0, None), result
    assert re.search(says, result.error), result.error


@line("see the environment variables or open files of the trainer")
def test_nothing_is_inherited(monkeypatch, tmp_path):
    monkeypatch.setenv("LGRPO_SECRET", "hidden")
    with open(tmp_path / "open", "w") as file:
        os.set_inheritable(file.fileno(), True)
        code = (
            "import os\nfound = []\nfor d in range(1024):\n    try: os.fstat(d)\n    except OSError: continue\n"
            "    found.append(d)\nprint(found, 'LGRPO_SECRET' in os.environ)"
        )
        assert written(code) == "[0, 1, 2] False\n"


@line("keep a process running after the program ended, after its time limit, or after the trainer ended")
@pytest.mark.parametrize("end", ["limit", "end", "output"])
def test_nothing_outlives_a_program(end):
    mark = secrets.token_hex(8)
    code = runaway(mark)
    if end == "end":
        code = f"import os, time\nif os.fork(): time.sleep(0.5); os._exit(0)\n{code}"
    if end == "output":
        code = f"import os, time\nif os.fork():\n    time.sleep(0.5)\n    while True: print('x' * 9999)\n{code}"
    result = run(Program(code=code), Limits(seconds=2))
    assert result.status == (0 if end == "end" else None)
    assert not processes(mark)


@needs_namespaces
@pytest.mark.parametrize("forked", [False, True])
def test_nothing_outlives_a_killed_trainer(tmp_path, forked):
    """With ``forked``, a process that the trainer forked meanwhile holds copies of its pipes."""
    mark = secrets.token_hex(8)
    script = tmp_path / "trainer.py"
    script.write_text(
        "import multiprocessing, os, threading, time\nfrom runner import run_all, Program, Limits\n"
        f"def sleep(): time.sleep(60)\n"
        f"def fork():\n    time.sleep(2)\n    multiprocessing.get_context('fork').Process(target=sleep).start()\n"
        f"if {forked}: threading.Thread(target=fork).start()\n"
        f"run_all([Program(code={runaway(mark)!r})] * 3, Limits(seconds=300), workers=3)\n"
    )
    trainer = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(Path(runner.__file__).parent)},
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 60
        while len(processes(mark)) < 12 or (forked and len(processes(str(script))) < 2):
            assert time.monotonic() < until
            time.sleep(0.1)
        os.kill(trainer.pid, signal.SIGKILL)
        trainer.wait()
        assert gone(mark), "programs outlive the trainer"
        assert gone(str(runner.SANDBOX))
    finally:
        os.killpg(trainer.pid, signal.SIGKILL) if forked else None


@line("fake a message of the sandbox, because these messages have a separate pipe")
@pytest.mark.parametrize("status", [0, 1, 97])
def test_a_program_does_not_speak_for_the_sandbox(status):
    code = (
        "import os, sys\nsys.stderr.write('lgrpo-code refuses to run: unshare: Operation not permitted\\n')\n"
        "for d in range(1024):\n    try: os.write(d, b'started\\n0\\n0\\n')\n    except OSError: pass\n"
        f"os._exit({status})"
    )
    assert run(Program(code=code), Limits()).status == status


# --- where a machine refuses ---


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1", "Operation not permitted"),
        ("cat > /dev/null", "does not start"),
        ("exit 0", "does not start"),
    ],
)
def test_where_the_kernel_refuses_nothing_is_run(monkeypatch, tmp_path, broken, says):
    """As in a container without namespaces: said before the first step, with what to change."""
    tool = tmp_path / "unshare"
    tool.write_text(f"#!/bin/sh\n{broken}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(runner, "UNSHARE", str(tool))
    monkeypatch.setattr(runner, "SETUP", 2.0)
    with pytest.raises(UserError, match=rf"(?s)refuses to run: .*{says}.*max_user_namespaces"):
        CodeTests(allow_execution=True).setup(None)


def test_older_kernels_and_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr("platform.release", lambda: "5.4.0-generic")
    with pytest.raises(UserError, match=r"Linux 5\.14 or newer.*5\.4\.0"):
        CodeTests(allow_execution=True).setup(None)


@pytest.fixture
def ordinary():
    """Runs Python with ``runner`` as ``nobody``, who can read neither this environment nor its Python."""
    if os.getuid() != 0 or not os.path.exists("/usr/bin/python3"):
        pytest.skip("it takes root, and a Python of the system's")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        for file in ("runner.py", "sandbox.py"):
            shutil.copyfile(Path(runner.__file__).with_name(file), f"{folder}/{file}")

        def python(code, *before):
            found = subprocess.run(
                [*before, "/usr/bin/python3", "-c", f"from runner import *\n{code}"],
                env={"PATH": "/usr/sbin:/usr/bin:/bin", "PYTHONPATH": folder},
                capture_output=True,
                text=True,
                cwd="/",
                user=65534,
                group=65534,
                extra_groups=[],
            )
            assert not found.stderr, found.stderr
            return found.stdout

        yield python


@needs_namespaces
def test_as_an_ordinary_user(ordinary):
    mark = secrets.token_hex(8)
    programs = [
        "import os; print(os.getuid(), os.path.exists('/etc'))",
        runaway(mark),
        "import ctypes; assert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0, 'no trace'",
        "import os\ntry: os.kill(1, 9)\nfinally: print('no use')",
        "import ctypes; assert ctypes.CDLL(None).unshare(0x10020000) == 0, 'no namespace'",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "import threading\nfor _ in range(3): threading.Thread(target=print, args=('one',)).start()",
        "open('/main.py', 'a')",
    ]
    found = ordinary(
        f"check()\nfor r in run_all([Program(code=c) for c in {programs!r}], Limits(seconds=3), workers=8):\n"
        "    print(r.status, r.output.split(), r.error[-40:].split(chr(10))[-2:])"
    )
    said = found.splitlines()
    assert said[0].startswith("0 ['65534', 'False']")
    assert said[1].startswith("None")
    assert "no trace" in said[2]
    assert "['no', 'use']" in said[3]
    assert "no namespace" in said[4]
    assert said[5].startswith("None")
    assert said[6].startswith("0 ['one', 'one', 'one']")
    assert "Read-only" in said[7]
    assert not processes(mark)


@needs_namespaces
def test_without_namespaces_of_users(ordinary):
    """The kernel's own refusal: a limit of none, in a namespace that this test owns."""
    none = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    before = ["unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", none, "sh"]
    found = ordinary("try: check()\nexcept SandboxError as error: print(error)", *before)
    assert "refuses to run: unshare" in found, found
    assert "sysctl user.max_user_namespaces" in found


def test_every_line_of_the_readme_has_a_test():
    section = README.read_text().split("## What a program may do")[1].split("## What this does not protect")[0]
    said = re.findall(r"^- (.+?)[;.]$", re.sub(r"\n  +", " ", section), flags=re.MULTILINE)
    assert set(said) == LINES
