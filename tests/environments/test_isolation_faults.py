"""Environments and tools that end their process, hang, or answer nonsense: the run goes on, in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lgrpo_lightning.distributed import is_process_gone
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.types import Completion
from tests.environments.faults import ANSWERS, ENDS, SendsPickles, Wrong
from tests.environments.test_isolation import FAULTS, children, descriptors
from tests.environments.test_tools import asked, call, scripted
from tests.samplers.test_transformers import RANDOM_KEY

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at /proc")
ENDING = {"exits": "ended with status 3", "is_killed": "killed by SIGKILL", "crashes": "killed by SIGSEGV",
          "hangs": "no answer within 1 seconds", "holds": "no answer within 1 seconds",
          "forks": "ended with status 4", "garbles": "wrote into its connection"}  # fmt: skip
STRINGS = ("huge", "unpicklable", "torn")
"""What a tool may return: it is made a string."""


QUICK = ("exits", "hangs", "raises", "unpicklable")
"""Tried always; continuous integration tries all."""


def each(*ways: str) -> list[Any]:
    """Those that are quick, and the others as slow tests."""
    return [w if w in QUICK else pytest.param(w, marks=pytest.mark.slow) for w in ways]


@pytest.fixture(scope="module")
def policy(model_folder: Callable[[str], Path]) -> Policy:
    return Policy(PolicyConfig(path=str(model_folder("llama"))))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before, opened = children(), descriptors()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "EnvironmentSampler: a process of environments is replaced")
        yield
    assert children() <= before
    assert descriptors() <= opened + 2


def played(policy: Policy, said: Any, columns: Any = None, **options: Any) -> tuple[list[Completion], float]:
    """The rollouts of two prompts, of which the second one's columns say nothing bad, and the seconds."""
    sampler, _ = scripted(
        policy,
        said,
        **{"isolation": "process", "workers": 4, "timeout": 1.0, "max_answer_chars": 300, **options},
    )
    prompts = [asked(columns, uid="bad"), asked({"bad": False}, uid="good")]
    began = time.monotonic()
    try:
        groups = sampler.sample(prompts, 2, sampling=Sampling(max_new_tokens=2000), random_key=RANDOM_KEY)
        return [r for g in groups for r in g.completions], time.monotonic() - began
    finally:
        sampler.teardown()


@pytest.mark.parametrize("how", each(*ENDS, *ANSWERS))
def test_a_tool(policy: Policy, how: str) -> None:
    """It remembers nothing: the policy reads the error, and the next call is made in another process."""
    said = [call("faulty", how=how) + call("process_id"), call("process_id"), "Done."]
    tools = [f"{FAULTS}.faulty", f"{FAULTS}.process_id"]
    rollouts, seconds = played(policy, said, tools=tools, on_error="drop")
    assert seconds < 15
    for rollout in rollouts:
        assert rollout.applies
        first, second, third = (m["content"] for t in rollout.turns[1::2] for m in t.messages)
        assert int(second) == int(third) != os.getpid()
        if how in ENDING:
            assert ENDING[how] in first
        elif how in STRINGS:
            assert "object at" in first or "(10000000 characters, cut off here)" in first
        else:
            assert first.startswith("{'error'")


@pytest.mark.parametrize("how", each(*ENDS, *ANSWERS))
def test_a_method_of_an_object(policy: Policy, how: str) -> None:
    """Its state is lost with the process: the episode is dropped, whatever ``on_error``."""
    said = [call("work", how=""), call("work", how=how), call("work", how=""), "Done."]
    rollouts, seconds = played(policy, said, environment=f"{FAULTS}.WrongObject", on_error="message")
    assert seconds < 15
    for rollout in rollouts:
        assert rollout.applies == (how not in ENDS)
        assert rollout.metrics["tools/failures"] == float(how not in STRINGS)
        assert bool(rollout.mask.any()) == rollout.applies
        assert not rollout.applies or rollout.rewards == (3.0,)


@pytest.mark.parametrize("on_error", ["message", "drop"])
@pytest.mark.parametrize("how", each(*ENDS, *ANSWERS))
def test_respond(policy: Policy, how: str, on_error: str) -> None:
    rollouts, seconds = played(policy, ["a"] * 5, environment=Wrong("respond", how), on_error=on_error)
    assert seconds < 15
    goes_on = how in ANSWERS and on_error == "message"
    assert [r.applies for r in rollouts] == [goes_on, goes_on, True, True]
    assert [r.rewards for r in rollouts if r.applies] == [(3.0,)] * (4 if goes_on else 2)
    if goes_on:
        assert "Error" in rollouts[0].turns[3].messages[0]["content"] or how in ("leaves", "interrupts")


@pytest.mark.parametrize("how", each(*ENDS, *ANSWERS))
def test_reward(policy: Policy, how: str) -> None:
    rollouts, seconds = played(policy, ["a"] * 5, environment=Wrong("reward", how))
    assert seconds < 15
    assert [r.applies for r in rollouts] == [False, False, True, True]
    if how == "huge":
        return  # a number, of ten million digits
    rollouts, _ = played(policy, ["Done."], {"where": "reward", "how": how}, environment=f"{FAULTS}.WrongObject")
    assert [r.applies for r in rollouts] == [False, False, True, True]


@pytest.mark.parametrize("how", each(*ENDS, "raises", "leaves", "interrupts", "unspeakable"))
def test_close(policy: Policy, how: str) -> None:
    rollouts, seconds = played(policy, ["a"] * 5, environment=Wrong("close", how))
    assert seconds < 15
    assert [r.rewards for r in rollouts] == [(3.0,)] * 4


@pytest.mark.parametrize("how", each(*ENDING, "raises"))
def test_reset_stops_the_run(policy: Policy, how: str) -> None:
    with pytest.raises(Exception, match=ENDING.get(how, "nothing here")) as caught:
        played(policy, ["a"], environment=Wrong("reset", how))
    if how == "raises":
        assert any("go_wrong" in note for note in caught.value.__notes__)


def test_episodes_that_share_a_process_are_dropped_with_it(policy: Policy) -> None:
    rollouts, _ = played(policy, ["a"] * 5, environment=Wrong("respond", "exits"), workers=2)
    assert [r.applies for r in rollouts] == [False] * 4  # two in each process, a bad one and a good one
    rollouts, _ = played(policy, ["a"] * 5, environment=Wrong("respond", "exits"), workers=4)
    assert [r.applies for r in rollouts] == [False, False, True, True]


def test_a_process_that_ends_is_told_once(policy: Policy) -> None:
    sampler, inner = scripted(policy, ["a"] * 5, environment=Wrong("respond", "exits"), isolation="process")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            inner.asked = []
            sampler.sample([asked()], 2, sampling=Sampling(max_new_tokens=2000), random_key=RANDOM_KEY)
    sampler.teardown()
    told = [str(w.message) for w in caught if "is replaced" in str(w.message)]
    assert len(told) == 1
    assert "the process ended with status 3 in respond" in told[0]


def test_a_process_killed_between_two_rollouts_is_replaced(policy: Policy) -> None:
    sampler, inner = scripted(policy, ["a"] * 5, environment=Wrong(), isolation="process", workers=2)
    for _ in range(2):
        inner.asked = []
        groups = sampler.sample([asked()], 2, sampling=Sampling(max_new_tokens=2000), random_key=RANDOM_KEY)
        assert all(r.applies for r in groups[0].completions)
        assert sampler.processes is not None
        for worker in sampler.processes.running:
            os.kill(worker.process.pid, signal.SIGKILL)
        time.sleep(0.3)
    sampler.teardown()


TRAINER = """
import os, pickle, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background has it ignored
from lgrpo_lightning.environments.isolation.workers import Workers
from lgrpo_lightning.environments.tool_call import ToolCall
from lgrpo_lightning.environments.tool_environment import ToolEnvironment
from tests.environments.faults import faulty
workers = Workers({None: pickle.dumps(ToolEnvironment([faulty]))}, 3)
seats = []
for how in ("", "hangs", "holds"):
    workers.prepare(3)
    seats.append(workers.seat(None))
for seat, how in zip(seats, ("hangs", "holds")):
    call = ToolCall(name="faulty", arguments={"how": how})
    threading.Thread(target=lambda s=seat, c=call: s.call("call", c, limit=100), daemon=True).start()
time.sleep(1)
print(*[w.process.pid for w in workers.running], flush=True)
try:
    time.sleep(100)
except KeyboardInterrupt:
    os._exit(1)
"""


@pytest.mark.long
@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_no_process_outlives_the_trainer(end: str) -> None:
    """One waits, one sleeps, one holds the interpreter; and a signal to all leaves no traceback of theirs."""
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, start_new_session=True,
    )  # fmt: skip
    assert trainer.stdout is not None
    pids = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(pids) == 3
    assert not any(map(is_process_gone, pids))
    number = signal.Signals[end]
    if end != "SIGKILL":
        for pid in pids:  # as a scheduler may do
            os.kill(pid, number)
        time.sleep(0.3)
        assert not any(map(is_process_gone, pids))
    os.killpg(trainer.pid, number)
    _, said = trainer.communicate(timeout=20)
    until = time.monotonic() + 10
    while not all(map(is_process_gone, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert all(map(is_process_gone, pids))
    assert "Traceback" not in said


@pytest.mark.parametrize("how", ["answer", "socket", "length"])
def test_what_a_process_sends_runs_nothing_in_the_trainer(policy: Policy, how: str, tmp_path: Path) -> None:
    attack = SendsPickles(str(tmp_path / "ran"), how)
    rollouts, seconds = played(policy, ["a"] * 3, environment=attack, on_error="drop")
    assert not (tmp_path / "ran").exists()
    assert not any(rollout.applies for rollout in rollouts)
    assert seconds < 15
