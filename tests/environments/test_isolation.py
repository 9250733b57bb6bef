"""Environments in processes: the same episodes as on threads, and nothing is left of them."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import pickle
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lgrpo_lightning.distributed import is_process_gone
from lgrpo_lightning.environments import GuessingGame
from lgrpo_lightning.environments.driver import EpisodeDriver
from lgrpo_lightning.environments.isolation.proxies import ProcessToolEnvironment
from lgrpo_lightning.environments.isolation.serving import Answer, Residents
from lgrpo_lightning.environments.isolation.worker import Worker, _count_seconds_left
from lgrpo_lightning.environments.isolation.workers import Seat
from lgrpo_lightning.environments.tool_environment import ToolEnvironment
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.samplers import EnvironmentSampler
from lgrpo_lightning.types import Group
from tests.environments import faults
from tests.environments.partners import Echo, Faulty
from tests.environments.test_sampler import SAMPLING, source
from tests.environments.test_tools import Scripted, asked, call, scripted
from tests.samplers.test_transformers import RANDOM_KEY, prompts

PARTNERS, FAULTS = "tests.environments.partners", "tests.environments.faults"


@pytest.fixture(scope="module")
def policy(model_folder: Callable[[str], Path]) -> Policy:
    return Policy(PolicyConfig(path=str(model_folder("llama"))))


def shown(groups: list[Group]) -> list[Any]:
    """Everything that a rollout has, comparable."""
    return [
        (
            g.prompt.text, g.prompt.token_ids, r.token_ids, r.logprobs.tolist(), r.mask.tolist(), r.text,
            r.text_ends, r.finish_reason, r.applies, r.turns, repr(r.rewards), r.metrics,
        )
        for g in groups
        for r in g.completions
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    "environment",
    [
        Echo(hint="9="),
        Faulty("raises"),
        *(
            pytest.param(e, marks=pytest.mark.slow)
            for e in (GuessingGame(), *map(Faulty, ("number", "huge", "reward")))
        ),
    ],
    ids=lambda e: f"{type(e).__name__} {getattr(e, 'how', '')}",
)
def test_episodes_are_those_of_threads(policy: Policy, environment: Any) -> None:
    found = []
    for options in ({}, {"isolation": "process", "workers": 3}):
        sampler = EnvironmentSampler(environment, **options)  # type: ignore[arg-type]
        sampler.setup(source(policy))
        for _ in range(2):
            found.append(shown(sampler.sample(prompts(), 3, sampling=SAMPLING, random_key=RANDOM_KEY)))
        sampler.teardown()
    assert len(found[0]) == 12
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tools": [f"{PARTNERS}.multiply"]}, [call("multiply", a=3, b=4), call("multiply", a=3), "12"]),
        ({"tools": [f"{PARTNERS}.slowly"]}, [call("slowly", a=3) + call("no"), call("slowly", a="x"), "12"]),
        ({"tools": [f"{PARTNERS}.naughty"]}, [call("naughty", how=h) for h in ("raises", "bytes", "leaves")]),
        ({"tools": [f"{FAULTS}.faulty"]}, [call("faulty", how=h) for h in ("huge", "unspeakable", "raises")]),
        (
            {"environment": f"{PARTNERS}.Counter", "tools": [f"{PARTNERS}.multiply"]},
            [call("increase", by=2) + call("increase", by="x"), call("multiply", a=1, b=2), "Done."],
        ),
        # neither of them can be pickled: they are imported in the process
        (
            {"environment": f"{PARTNERS}.make_counter", "tools": [f"{PARTNERS}.index.search"]},
            [call("increase", by=2) + call("search", words="x"), "Done."],
        ),
        ({"environment": {"a": f"{PARTNERS}.Counter", "b": f"{FAULTS}.Adder"}}, ["1", "2", "3"]),
        ({"environment": faults.Adder(first=3)}, ["1", "2", "3"]),
    ],
)
def test_conversations_with_tools_are_those_of_threads(policy: Policy, options: Any, said: Any) -> None:
    found = []
    for isolation in ("thread", "process"):
        sampler, inner = scripted(policy, [*said, "Done."], isolation=isolation, workers=2, **options)
        asking = [asked({"environment": "b", "many": n}, uid=str(n)) for n in range(2)]
        sampling = Sampling(max_new_tokens=2000)
        groups = sampler.sample(asking, 2, sampling=sampling, random_key=RANDOM_KEY)
        found.append((shown(groups), inner.asked))
        sampler.teardown()
    assert found[0] == found[1]
    assert "function" in found[0][1][0][0]  # the tools are shown


def test_environments_share_processes_only_where_there_are_more(policy: Policy) -> None:
    where = {}
    for many in (2, 6):
        sampler, _ = scripted(policy, ["a", "b"], environment=f"{FAULTS}.Where", isolation="process", workers=3)
        for _ in range(3):
            inner = sampler.sampler
            assert isinstance(inner, Scripted)
            inner.asked = []
            group = sampler.sample([asked()], many, sampling=Sampling(max_new_tokens=2000), random_key=RANDOM_KEY)[0]
            told = [r.turns[1].messages[0]["content"].split() for r in group.completions]
            where.setdefault(many, []).append([pid for pid, _ in told])
        assert all(torch == "False" for _, torch in told)  # nothing imported it
        sampler.teardown()
    assert all(len(set(pids)) == 2 for pids in where[2])
    assert all(sorted(map(pids.count, set(pids))) == [2, 2, 2] for pids in where[6])
    assert len({pid for pids in where[6] for pid in pids}) == 3  # they are used again
    assert all(is_process_gone(int(pid)) for found in where.values() for pids in found for pid in pids)


class Here:
    """Processes of environments that are this one."""

    def __init__(self, prototype: Any) -> None:
        self.residents, self.seats, self.keys = Residents({None: pickle.dumps(prototype)}), set[int](), count()

    def seat(self, name: str | None) -> Seat:
        seat = Seat(self, next(self.keys))  # type: ignore[arg-type]
        seat.call("open", name, limit=1)
        return seat

    def ask(self, *request: Any, limit: float) -> Answer:
        key, method, *arguments = request
        answer = Answer.read(self.residents.answer(pickle.dumps((key, method, tuple(arguments)))))
        assert not answer.error, answer.text
        return answer


def test_an_environment_of_an_episode_that_is_over_waits_for_the_next() -> None:
    prototype = ToolEnvironment.from_paths([], f"{PARTNERS}.Counter", 1.0)
    here = Here(prototype)
    environment = ProcessToolEnvironment(here, None, prototype, 1.0)  # type: ignore[arg-type]
    limits: Any = {"timeout": 1.0, "workers": 1, "max_answer_chars": 99, "max_errors_in_a_row": 1, "on_error": "drop"}
    driver = EpisodeDriver({None: environment}, **limits)
    for episodes in (2, 1, 2):
        driver.begin_rollout()
        begun, _ = driver.begin_episodes(asked(), episodes, seed=0)
        living = {id(resident) for _, resident in here.residents.seated.values()}
        for episode in begun:
            driver.end_episode(episode)
        assert not here.residents.seated
        assert {id(e) for e in here.residents.waiting[None]} >= living
        assert len(here.residents.waiting[None]) == len(driver.idle[None]) == 2


def test_seconds_left_are_counted_down() -> None:
    assert 4 < _count_seconds_left(time.monotonic() + 5) <= 5
    with pytest.raises(TimeoutError):
        _count_seconds_left(time.monotonic())


def test_a_process_is_ended_by_the_one_that_started_it() -> None:
    """Not by a fork of that, which holds the same connection."""
    worker = Worker.__new__(Worker)
    worker.connection, other_end = socket.socketpair()
    worker.life, worker.over, worker.owner = io.FileIO(os.pipe()[1], "wb"), "", os.getpid() + 1
    worker.process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    worker.leave()
    worker.close(until=0)
    other_end.setblocking(False)
    with pytest.raises(BlockingIOError):
        other_end.recv(1)
    assert worker.process.poll() is None
    worker.owner = os.getpid()
    worker.leave()
    assert other_end.recv(1) == b""
    worker.close(until=0)
    assert worker.process.poll() == -signal.SIGKILL
    other_end.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def children() -> set[str]:
    """Processes of this one."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            found |= set((task / "children").read_text().split())
    return found


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what /proc shows")
def test_nothing_is_left_after_many_episodes(policy: Policy) -> None:
    before = children()
    opened = []
    for _ in range(3):
        said = [call("faulty", how="exits"), call("faulty", how="raises"), "Done."]
        sampler, inner = scripted(policy, said, tools=[f"{FAULTS}.faulty"], isolation="process", workers=2)
        for _ in range(4):
            inner.asked = []
            sampler.sample([asked()], 6, sampling=Sampling(max_new_tokens=2000), random_key=RANDOM_KEY)
            assert len(children() - before) <= 2
        sampler.teardown()
        assert children() <= before
        opened.append(descriptors())
    assert opened[0] == opened[-1]


def test_a_sampler_without_teardown_leaves_nothing(policy: Policy) -> None:
    before = children()
    sampler, _ = scripted(policy, ["a"], environment=f"{FAULTS}.Where", isolation="process")
    assert len(children() - before) == 1
    del sampler
    gc.collect()
    until = time.monotonic() + 20
    while any(not is_process_gone(int(pid)) for pid in children() - before) and time.monotonic() < until:
        time.sleep(0.05)
    assert all(is_process_gone(int(pid)) for pid in children() - before)


def test_it_is_made_in_no_process_before_setup() -> None:
    sampler = EnvironmentSampler(Echo(), isolation="process")
    assert sampler.processes is None
    assert pickle.loads(pickle.dumps(sampler)).isolation == "process"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (faults.HasALock(), "HasALock cannot be sent to a process .*isolation: thread"),
        (type("Hidden", (Echo,), {})(), "Hidden cannot be sent to a process .*Define its class in a module"),
        (faults.NotThere(), "NotThere cannot be made in a process of its own .OSError: no such device"),
    ],
)
def test_what_cannot_live_in_a_process_is_refused_early(policy: Policy, environment: Any, message: str) -> None:
    before = children()
    with pytest.raises(ValueError, match=message):
        EnvironmentSampler(environment, isolation="process").setup(source(policy))
    assert children() <= before


def test_a_class_of_the_script_is_refused(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    import __main__

    class Mine(Echo):
        pass

    Mine.__module__, Mine.__qualname__ = "__main__", "Mine"
    monkeypatch.setattr(__main__, "Mine", Mine, raising=False)
    with pytest.raises(ValueError, match=r"Mine cannot be made .*put it and its tools in a module"):
        EnvironmentSampler(Mine(), isolation="process").setup(source(policy))


def test_an_unknown_isolation_is_refused() -> None:
    with pytest.raises(ValueError, match="isolation is 'fork'; it must be 'thread' or 'process'"):
        EnvironmentSampler(Echo(), isolation="fork")  # type: ignore[arg-type]
