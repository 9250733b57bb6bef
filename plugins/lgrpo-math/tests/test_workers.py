"""The worker processes: started when needed, replaced when gone, ended with the run."""

import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lgrpo_math import MathAnswer, worker
from lgrpo_math.worker import Worker

from lgrpo_lightning.rewards.checks import RewardError

ENDLESS = r"\boxed{9^{9^{9^{9^{9}}}}}"


def processes(model: MathAnswer) -> list[int]:
    """Ids of the worker processes that run."""
    pool = model._pool
    return [w.process.pid for w in pool.workers if w.process is not None] if pool else []


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def test_nothing_runs_before_the_first_score_or_after_teardown(verdicts):
    model = MathAnswer(workers=2)
    assert processes(model) == []
    verdicts(model, [("2", "2")])
    verdicts(model, [("2", "2"), ("2", "2")])
    pids = processes(model)
    assert 1 <= len(pids) <= 2
    assert all(map(is_alive, pids))
    model.teardown()
    assert not any(map(is_alive, pids))
    model.teardown()
    assert verdicts(model, [("2", "2")]) == ["correct"]
    model.teardown()


def test_workers_are_kept_between_batches(verdicts):
    model = MathAnswer(workers=1)
    verdicts(model, [("2", "2")])
    first = processes(model)
    verdicts(model, [("2", "2"), ("2", "3"), ("x", "$x$")])
    assert processes(model) == first
    model.teardown()


def test_a_worker_killed_in_the_middle_costs_only_its_answer(verdicts):
    model = MathAnswer(timeout=60, workers=2)
    verdicts(model, [("2", "2")])
    killed: list[int] = []

    def kill_the_busy_one() -> None:
        # The tower is all one worker does; the other answers and then waits.
        wait_for(lambda: answered.is_set() or any(cpu_seconds(p) > 3 for p in processes(model)))
        killed.extend(p for p in processes(model) if cpu_seconds(p) > 3)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    answered = threading.Event()
    killer = threading.Thread(target=kill_the_busy_one)
    killer.start()
    got = verdicts(model, [("2", "2"), ("2", ENDLESS), ("2", "3"), ("2", "2"), ("2", "no")])
    answered.set()
    killer.join()
    assert got == ["correct", "crash", "wrong", "correct", "no_answer"]
    assert len(killed) == 1
    assert verdicts(model, [("2", "2")] * 8) == ["correct"] * 8
    assert killed[0] not in processes(model)
    model.teardown()


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_worker_killed_while_it_waits_costs_nothing(verdicts):
    model = MathAnswer(workers=1)
    verdicts(model, [("2", "2")])
    (pid,) = processes(model)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid))
    assert verdicts(model, [("2", "2")]) == ["correct"]
    assert processes(model) != [pid]
    model.teardown()


def test_a_stopped_worker_is_replaced(verdicts):
    model = MathAnswer(timeout=1, workers=1)
    verdicts(model, [("2", "2")])
    (pid,) = processes(model)
    os.kill(pid, signal.SIGSTOP)
    assert verdicts(model, [("2", "2" + " " * 200_000), ("2", "2")]) == ["timeout", "correct"]
    assert not is_alive(pid)
    model.teardown()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux bounds the address space")
def test_memory_is_bounded_and_running_out_is_counted():
    one = Worker(memory_mb=256)
    request = {"gold": ["2"], "extract": "any", "strict": True, "float_rounding": 6}
    assert one.verdict({**request, "text": "$2$"}, 60) == "correct"
    assert one.process is not None
    limits = Path(f"/proc/{one.process.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max address")).split()[3] == str(256 << 20)
    assert one.verdict({**request, "text": "$" + "9" * 40_000_000 + "$"}, 60) == "crash"
    assert one.process is None
    assert one.verdict({**request, "text": "$2$"}, 60) == "correct"
    one.close()


def test_a_copy_starts_workers_of_its_own(verdicts):
    model = MathAnswer(workers=1, correct=3.0)
    verdicts(model, [("2", "2")])
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert processes(other) == []
        assert verdicts(other, [("2", "2")]) == ["correct"]
        assert processes(other) != processes(model)
        other.teardown()
    assert verdicts(model, [("2", "2")]) == ["correct"]
    model.teardown()


def test_a_model_that_is_forgotten_ends_its_workers(verdicts):
    model = MathAnswer(workers=1)
    verdicts(model, [("2", "2")])
    (pid,) = processes(model)
    del model
    gc.collect()
    assert not is_alive(pid)


SCRIPT = """
    import os, signal, sys
    from lgrpo_lightning.testing import toy_group
    from lgrpo_math import MathAnswer

    model = MathAnswer(timeout=1 if sys.argv[1] == "busy" else 60, workers=1)

    def score(text):  # at the top level without a __main__ guard, as a script of one's own may be
        return model.score_batch([toy_group([text], columns={"answer": "2"})], [None])

    score("2")
    print(model._pool.workers[0].process.pid, flush=True)
    if sys.argv[1] == "exit":
        sys.exit()
    if sys.argv[1] == "busy":
        import threading
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        score(r"\\boxed{9^{9^{9^{9^{9}}}}}")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["exit", "killed", "busy"])
def test_no_worker_outlives_the_run(end, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    with subprocess.Popen([sys.executable, str(script), end], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        run.wait(60)
    wait_for(lambda: not is_alive(pid), 15)


def test_a_worker_that_cannot_start_says_why(verdicts, tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text("raise ImportError('No module named antlr4')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RewardError, match=r"did not start: ImportError: No module named antlr4.*pip install"):
        verdicts(MathAnswer(), [("2", "2")])


def test_a_worker_that_dies_at_its_start_says_so(verdicts, tmp_path, monkeypatch):
    broken = tmp_path / "checker.py"
    broken.write_text("")
    monkeypatch.setattr(worker, "CHECKER", broken)
    with pytest.raises(RewardError, match="did not start: it ended"):
        verdicts(MathAnswer(), [("2", "2")])
