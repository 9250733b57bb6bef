"""Completions with programs are worth the share of their tests that pass."""

import time

import pytest
from lgrpo_code import CodeTests
from lgrpo_code.runner import Limits, Program, SandboxError, check, run_all

from lgrpo_lightning.testing import check_component, check_reward_model, toy_group, toy_tree

try:
    check()
    REFUSES = None
except SandboxError as error:
    REFUSES = str(error)
needs_namespaces = pytest.mark.skipif(REFUSES is not None, reason=str(REFUSES))


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


@needs_namespaces
def test_many_at_a_time():
    programs = [Program(code=f"print({i})") for i in range(12)]
    assert [r.output for r in run_all(programs, Limits(), workers=4)] == [f"{i}\n" for i in range(12)]


def test_off_unless_asked_for():
    with pytest.raises(ValueError, match="set allow_execution: true"):
        CodeTests()


@needs_namespaces
def test_contracts():
    group = toy_group([block("x = 1"), block("x = 2"), "", block("x = 1")], columns={"tests": "assert x == 1"})
    check_reward_model(CodeTests(allow_execution=True), group)
    check_component(CodeTests(allow_execution=True, partial=False), {"allow_execution": True, "partial": False})


@pytest.mark.parametrize("tests", [None, "", [], [1], [{"input": "1"}], {"input": "1", "output": "2"}])
def test_rows_without_tests(tests):
    with pytest.raises(ValueError, match="column 'tests' is"):
        CodeTests(allow_execution=True).check_row({"tests": tests})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seconds": 0}, "seconds is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"extract": "("}, "no valid regular expression"),
        ({"extract": "a"}, r"has no group\. Possible is one with a group around the program\.$"),
    ],
)
def test_impossible_options(options, says):
    with pytest.raises(ValueError, match=says):
        CodeTests(allow_execution=True, **options)
