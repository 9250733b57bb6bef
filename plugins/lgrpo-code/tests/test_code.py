"""Programs are run apart from everything, end in time, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lgrpo_code import CodeTests
from lgrpo_code.runner import Limits, Program, SandboxError, run, run_all

from lgrpo_lightning.testing import check_component, check_reward_model, toy_group, toy_tree

try:
    run(Program(code="print(1)"), Limits())
    REFUSES = None
except SandboxError as error:
    REFUSES = str(error)
needs_namespaces = pytest.mark.skipif(REFUSES is not None, reason=str(REFUSES))


MOUNT = (
    "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
    "assert libc.mount(b't', b'/work', b'tmpfs', 0, None) == 0, 'no mount'"
)
WHERE = """
import os
print(os.getuid(), os.getpid(), sorted(os.listdir("/")), sorted(os.listdir("/work")), dict(os.environ))
"""


def processes(mark):
    """Processes whose command line or environment has the mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def block(code):
    return f"Here:\n```python\n{code}\n```\n"


def scored(texts, tests, **options):
    group = toy_group(texts, columns={"tests": tests})
    reward = CodeTests(allow_execution=True, **{"seconds": 5.0, "workers": 2, **options})
    return reward.score_batch([group], [toy_tree(group)])[0].outcome.tolist()


@needs_namespaces
def test_assertions_and_inputs():
    right, wrong = block("def add(a, b):\n    return a + b"), block("def add(a, b):\n    return a - b")
    assert scored([right, wrong, "no program", block("syntax error here")], "assert add(1, 2) == 3") == [
        1,
        0,
        0,
        0,
    ]
    tests = ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]
    assert scored([right, wrong], tests) == [1.0, 0.5]
    assert scored([right, wrong], tests, partial=False) == [1.0, 0.0]
    reads = block("n = int(input())\nprint(n * 2)\n")
    assert scored([reads], [{"input": "4\n", "output": "8"}, {"input": "5\n", "output": "11"}]) == [0.5]


@needs_namespaces
def test_leaving_early_passes_nothing():
    for code in ("import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit"):
        assert scored([block(code)], "assert False") == [0.0]


@needs_namespaces
@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(1000)",
        "def f(n): return f(n + 1)\nimport sys; sys.setrecursionlimit(10**9); f(0)",
        "x = 'a' * (8 << 30)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(100,)).start()",
        "while True: print('x' * 10000)",
        "import sys\nwhile True: sys.stderr.write('x' * 10000)",
        "f = open('/work/f', 'wb')\nwhile True: f.write(b'x' * (1 << 20))",
        "import os, signal\nos.kill(-1, signal.SIGKILL)",
        "import os\nif os.fork(): os._exit(0)\nos.setsid()\nimport time; time.sleep(1000)",
        "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\n"
        "while True: pass",
        "import sys; sys.stdin.read(); sys.stdout.close(); sys.stderr.close()\nwhile True: pass",
        "\x00",
    ],
)
def test_hostile_programs_end_with_nothing(code):
    began = time.monotonic()
    assert scored([block(code), block("x = 1")], "assert x == 1", seconds=2.0) == [0.0, 1.0]
    assert time.monotonic() - began < 15
    time.sleep(0.2)
    assert not processes("sandbox.py")


@needs_namespaces
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import socket; socket.create_connection(('127.0.0.1', 22), 1)", "unreachable|refused"),
        ("import socket; socket.getaddrinfo('example.org', 80)", "resolution|not known"),
        ("open('/usr/lgrpo', 'w')", "Read-only|denied"),
        ("open('/etc/passwd')", "No such file"),
        ("import os; os.listdir('/var')", "No such file|denied"),
        ("import os; os.setuid(0)", "not permitted"),
        ("import os; os.mkdir('/new')", "Read-only|denied"),
        (
            MOUNT,
            "no mount",
        ),
        (
            "import subprocess; subprocess.run(['/bin/su', '-c', 'id'], check=True)",
            "Error|not permitted|returned",
        ),
    ],
)
def test_what_a_program_cannot_do(code, says):
    result = run(Program(code=code), Limits(seconds=5.0))
    assert result.status not in (0, None)
    assert pytest.importorskip("re").search(says, result.error), result.error


@needs_namespaces
def test_where_a_program_is():
    said = run(Program(code=WHERE), Limits()).output
    uid = 65534 if os.getuid() == 0 else os.getuid()
    assert said.startswith(f"{uid} 1 ")
    assert "main.py" in said
    assert "PWD" not in said
    assert "SECRET" not in run(Program(code="import os; print(dict(os.environ))"), Limits()).output


@needs_namespaces
def test_many_at_a_time():
    programs = [Program(code=f"print({i})") for i in range(12)]
    assert [r.output for r in run_all(programs, Limits(), workers=4)] == [f"{i}\n" for i in range(12)]


@needs_namespaces
def test_nothing_is_left_after_a_kill_of_the_trainer(tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(
        "from lgrpo_code.runner import run_all, Program, Limits\n"
        "run_all([Program(code='import time; time.sleep(600)')] * 3, Limits(seconds=300), workers=3)\n"
    )
    path = os.pathsep.join(sys.path)
    trainer = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": path})
    until = time.monotonic() + 60
    while len(processes("main.py")) < 3:
        assert time.monotonic() < until
        time.sleep(0.1)
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.wait()
    until = time.monotonic() + 10
    while processes("main.py") or processes("sandbox.py"):
        assert time.monotonic() < until, "programs outlive the trainer"
        time.sleep(0.1)


def test_off_unless_asked_for():
    with pytest.raises(ValueError, match="set allow_execution: true"):
        CodeTests()


def test_where_the_kernel_refuses_nothing_is_run(monkeypatch, tmp_path):
    """As in a container without namespaces: the sandbox says so, and the run stops."""
    refusing = tmp_path / "sandbox.py"
    refusing.write_text(
        (Path(run.__code__.co_filename).with_name("sandbox.py"))
        .read_text()
        .replace("checked(libc.unshare(", "checked(1 or (", 1)
    )
    monkeypatch.setattr("lgrpo_code.runner.SANDBOX", refusing)
    with pytest.raises(SandboxError, match=r"refuses to run: .*unshare"):
        run(Program(code="print('ran')"), Limits())


@needs_namespaces
def test_contracts():
    group = toy_group(
        [block("x = 1"), block("x = 2"), "", block("x = 1")], columns={"tests": "assert x == 1"}
    )
    check_reward_model(CodeTests(allow_execution=True), group)
    check_component(
        CodeTests(allow_execution=True, partial=False), {"allow_execution": True, "partial": False}
    )


@pytest.mark.parametrize("tests", [None, "", [], [1], [{"input": "1"}], {"input": "1", "output": "2"}])
def test_rows_without_tests(tests):
    with pytest.raises(ValueError, match="column 'tests' is"):
        CodeTests(allow_execution=True).check_row({"tests": tests})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seconds": 0}, "seconds is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"extract": "("}, "no regular expression"),
    ],
)
def test_impossible_options(options, says):
    with pytest.raises(ValueError, match=says):
        CodeTests(allow_execution=True, **options)
