"""Reward functions that raise, hang or return nonsense: handled as configured, and never 0."""

import asyncio
import contextvars
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from typing import Any

import pytest
import torch

from lgrpo_lightning.distributed.interruption import AbandonedError, begin, request_stop
from lgrpo_lightning.rewards import RewardError, RewardFunction, RewardSum
from lgrpo_lightning.rewards.background_loop import BackgroundLoop
from lgrpo_lightning.rewards.exact_match import ExactMatch
from lgrpo_lightning.testing import check_reward_model, toy_group, toy_tree
from lgrpo_lightning.types import Rewards

GROUPS = [toy_group(["1", "2"], columns={"answer": 1}), toy_group(["3"], columns={"answer": 3}, uid="2")]


def scored(model: Any) -> list[Rewards]:
    return list(model.score_batch(GROUPS, [toy_tree(g) for g in GROUPS]))


def raises(completions: list[str], log_extra: Any, log_metric: Any) -> None:
    log_extra("half", [1])
    log_metric("seen", 1.0)
    raise ConnectionError("the judge is gone")


def hangs(completions: list[str]) -> None:
    time.sleep(30)


async def hangs_async(completions: list[str]) -> None:
    await asyncio.sleep(30)


async def blocks(completions: list[str]) -> None:
    time.sleep(30)


async def catches_its_cancellation(completions: list[str]) -> None:
    for _ in range(30):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1)


def short(completions: list[str]) -> list[float]:
    return [1.0]


def huge(completions: list[str]) -> list[int]:
    return [10**5000] * len(completions)


def infinite(completions: list[str]) -> list[float]:
    return [float("-inf")] * len(completions)


def wide(completions: list[str]) -> list[float]:
    return [1e39] * len(completions)


def cancelled(completions: list[str]) -> None:
    raise asyncio.CancelledError("by hand")


async def cancels_itself(completions: list[str]) -> None:
    raise asyncio.CancelledError("by hand")


def nothing(completions: list[str]) -> None:
    return None


FAULTS = {
    "raises": (raises, {}, "ConnectionError: the judge is gone"),
    "hangs": (
        hangs,
        {"thread": True, "timeout": 0.1},
        r"TimeoutError: no answer within 0.1 seconds .timeout.\n",
    ),
    "hangs_async": (hangs_async, {"timeout": 0.1}, r"TimeoutError: no answer within 0.1 seconds .timeout.\n"),
    "blocks": (
        blocks,
        {"timeout": 0.1},
        "TimeoutError: .*timeout., and it goes on all the same: it blocks its",
    ),
    "catches_its_cancellation": (
        catches_its_cancellation,
        {"timeout": 0.1},
        "TimeoutError: .*its own cancellation",
    ),
    "short": (short, {}, "returned 1 values"),
    "nothing": (nothing, {}, "returned a NoneType"),
    "huge": (huge, {}, "returned a number beyond ±3.4e.38, or infinity, for completion 0"),
    "infinite": (infinite, {}, "returned a number beyond"),
    "wide": (wide, {}, "returned a number beyond"),
    "cancelled": (cancelled, {}, "CancelledError: by hand"),
    "cancels_itself": (cancels_itself, {}, "CancelledError"),
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lgrpo_lightning.rewards.background_loop.GRACE", 0.2)


@pytest.mark.parametrize("fault", FAULTS)
def test_stops_by_default(fault: str) -> None:
    function, options, said = FAULTS[fault]
    started = time.monotonic()
    with pytest.raises(RewardError, match=rf"'{fault}' (failed with )?{said}"):
        scored(RewardFunction(function, **options))  # type: ignore[arg-type]
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("fault", FAULTS)
def test_none_makes_the_call_not_applicable_warns_once_and_counts(fault: str) -> None:
    function, options, said = FAULTS[fault]
    model = RewardFunction(function, on_error="none", **options)  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match=rf"'{fault}' (failed with )?{said}(.|\n)*rewards/{fault}/errors"):
        rewards = scored(model)
    for group, r in zip(GROUPS, rewards, strict=True):
        assert r.outcome.isnan().tolist() == [True] * len(group)
        assert r.parts.keys() == {fault}
        assert r.metrics == {f"rewards/{fault}/errors": 1.0, f"rewards/{fault}/nan": 0.0}
        assert not r.extras
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored(model)


def needs_hints(completions: list[str], hints: list[str]) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "line"),
    [
        (raises, {}, raises.__code__.co_firstlineno + 3),
        (raises, {"thread": True}, raises.__code__.co_firstlineno + 3),
        (hangs, {"thread": True, "timeout": 0.1}, 0),
        (short, {}, 0),
        (needs_hints, {}, 0),
    ],
)
def test_the_line_that_failed_is_named(function: Any, options: dict[str, Any], line: int) -> None:
    """Where it is one of the function: not for a time-out, a wrong answer, or a call without one of its arguments."""
    with pytest.raises(RewardError) as error:
        scored(RewardFunction(function, **options))
    where = re.findall(r"\((\w+.py), line (\d+); LGRPO_TRACEBACK=1", str(error.value))
    assert where == ([("test_failures.py", str(line))] if line else [])


def test_an_exit_in_a_coroutine_reaches_the_caller_and_the_next_call_is_answered() -> None:
    async def exits(code: int) -> int:
        await asyncio.gather(*(asyncio.sleep(0) if code else _exit() for _ in range(2)))
        return code

    async def _exit() -> None:
        sys.exit(0)

    loop = BackgroundLoop()
    with pytest.raises(SystemExit):
        loop.wait_for_result(exits(0), timeout=5.0)
    assert loop.wait_for_result(exits(3), timeout=5.0) == 3
    loop.close()


@pytest.mark.parametrize(("function", "options"), [(hangs, {"thread": True}), (hangs_async, {}), (blocks, {})])
def test_a_stop_that_is_asked_for_ends_the_waiting(function: Any, options: dict[str, Any]) -> None:
    threading.Timer(0.2, request_stop, [signal.SIGTERM]).start()
    try:
        with pytest.raises(AbandonedError):
            scored(RewardFunction(function, **options))
    finally:
        begin()


def test_too_many_in_a_row_stop_and_a_success_starts_anew() -> None:
    works = iter([False, True, False, False, True])

    def sometimes(completions: list[str]) -> list[float]:
        return [1.0] * len(completions) if next(works) else 1 / 0  # type: ignore[return-value]

    model = RewardFunction(sometimes, on_error="none", max_errors_in_a_row=2)
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError"):
        assert scored(model)[0].outcome.isnan().all()
    assert scored(model)[0].outcome.tolist() == [1.0, 1.0]
    assert scored(model)[0].metrics["rewards/sometimes/errors"] == 1.0
    with pytest.raises(RewardError, match=r"failed 2 times in a row \(max_errors_in_a_row\)(.|\n)*ZeroDivision"):
        scored(model)


def test_beside_other_rewards_a_failed_one_adds_nothing() -> None:
    model = RewardSum([ExactMatch(), RewardFunction(short, on_error="none")], [1.0, 5.0])
    with pytest.warns(RuntimeWarning):
        one, two = scored(model)
    assert one.outcome.tolist() == [1.0, 0.0]
    assert two.outcome.tolist() == [1.0]
    assert one.parts["short"].isnan().all()
    alone = RewardSum([RewardFunction(short, on_error="none")])
    with pytest.warns(RuntimeWarning):
        assert scored(alone)[0].outcome.isnan().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_error": "skip"}, "on_error is 'skip'; it must be"),
        ({"max_errors_in_a_row": 0}, "must be at least 1"),
    ],
)
def test_impossible_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RewardFunction(short, **options)


variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


def test_a_thread_finds_what_the_caller_has() -> None:
    seen: list[Any] = []

    def looks(completions: list[str]) -> list[float]:
        seen.append((torch.is_grad_enabled(), variable.get(), threading.current_thread().daemon))
        return [0.0] * len(completions)

    model = RewardFunction(looks, thread=True)
    variable.set(7)
    check_reward_model(model)
    with torch.no_grad():
        scored(model)
    assert seen[0] == (True, 7, True)
    assert seen[-1] == (False, 7, True)


def test_without_a_thread_it_runs_where_signal_handlers_may_be_set() -> None:
    """As math-verify's do, inside TRL's accuracy_reward."""
    seen: list[bool] = []

    def looks(completions: list[str]) -> list[float]:
        seen.append(threading.current_thread() is threading.main_thread())
        return [0.0] * len(completions)

    scored(RewardFunction(looks))
    assert seen == [True]


SCRIPT = """
import time
from lgrpo_lightning.rewards import RewardFunction
from lgrpo_lightning.testing import toy_group, toy_tree

def hangs(completions):
    time.sleep(600)

group = toy_group(["a"])
model = RewardFunction(hangs, thread=True, timeout=0.1, on_error="none")
print(model.score_batch([group], [toy_tree(group)])[0].outcome)
"""


@pytest.mark.long
def test_an_abandoned_thread_does_not_keep_the_process(tmp_path: Any) -> None:
    (tmp_path / "run.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(tmp_path / "run.py")], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "tensor([nan])" in done.stdout
