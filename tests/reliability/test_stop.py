"""A signal ends a run in good order: soon, with a documented status, and resumed exactly."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from lgrpo_lightning.distributed.interruption import (
    AbandonedError,
    Interrupted,
    abandon_if_stopping,
    begin,
    request_stop,
)
from tests.callbacks.stub import StubModule, fit
from tests.reliability.processes import (
    IN_SAMPLING,
    MINUTES,
    RUN,
    SLOW,
    TWO,
    Launched,
    Run,
    finished,
    finished_pair,
    gone,
    pair,
    same_run,
)
from tests.runs import VALIDATED, lgrpo

SECOND = "rollouts/rollout-000001-rank-000.parquet"


@pytest.fixture
def fresh():
    begin()
    yield
    begin()


def test_samplers_give_up_only_when_asked(fresh: None) -> None:
    abandon_if_stopping()
    request_stop(signal.SIGTERM)
    request_stop(signal.SIGINT)
    with pytest.raises(AbandonedError):
        abandon_if_stopping()
    assert Interrupted(signal.SIGINT).code == 130


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("whole") / "run", **RUN | SLOW)


@pytest.mark.long
@pytest.mark.parametrize(
    ("signum", "status"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
        pytest.param(signal.SIGQUIT, 131, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow),
    ],
)
def test_stopped_while_sampling_and_resumed(signum: signal.Signals, status: int, whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    run = Run(root, **RUN | SLOW)
    run.until(SECOND)
    time.sleep(IN_SAMPLING)
    run.signalled(signum)
    assert run.ended(30) == status
    assert f"{signum.name} ended the run after 2 whole rollouts; the state after 2 is in" in run.said()
    assert "Resume with --ckpt_path last." in run.said()
    assert finished(root, log="2", ckpt_path="last", **RUN | SLOW)
    same_run(whole, root)


@pytest.mark.long
def test_a_stop_does_not_wait_for_sampling_that_takes_minutes(tmp_path: Path) -> None:
    root = finished(tmp_path / "run", **RUN | {"trainer__max_steps": 2})
    run = Run(root, log="2", ckpt_path="last", **RUN | MINUTES)
    run.until("Restored all states")
    time.sleep(3)
    assert run.status() is None
    asked = time.monotonic()
    run.signalled(signal.SIGTERM)
    assert run.ended(30) == 143
    assert time.monotonic() - asked < 10
    assert "SIGTERM ended the run after 1 whole rollout; the state after 1 is in" in run.said()


def test_a_stop_does_not_wait_for_an_async_reward(tmp_path: Path) -> None:
    reward = {
        "class_path": "RewardFunction",
        "init_args": {"function": "tests.reliability.rewards.stops_and_sleeps"},
    }
    with pytest.raises(Interrupted, match="SIGTERM"):
        lgrpo("fit", tmp_path, model__reward_model=json.dumps(reward))


@pytest.mark.slow
def test_stopped_while_validating_and_resumed(tmp_path: Path) -> None:
    """The validation that was cut off is made up for."""
    slow = (
        RUN
        | VALIDATED
        | {
            "trainer__max_steps": 6,
            "trainer__enable_progress_bar": "true",
            "data__validation__init_args__count": 60,
            "model__validation__at_start": "false",
            "model__sampler__init_args__max_batch_tokens": 1,
        }
    )
    whole = finished(tmp_path / "whole", **slow)
    root = tmp_path / "run"
    run = Run(root, **slow)
    run.until("rollout 2/")
    time.sleep(0.3)
    run.signalled(signal.SIGTERM)
    assert run.ended(30) == 143
    assert run.said().count("validation  ") == 0
    assert finished(root, log="2", ckpt_path="last", **slow)
    same_run(whole, root)


def test_the_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", **RUN, model__reward_model="tests.reliability.rewards.Sleeps")
    run.until("sleeping")
    run.signalled(signal.SIGINT)
    time.sleep(0.1)
    run.signalled(signal.SIGINT)  # of a terminal and of what runs in it, say: one wish
    time.sleep(1)
    assert run.status() is None
    run.signalled(signal.SIGINT)
    assert run.ended(5) == 130
    assert "SIGINT again: stopped at once" in run.said()


def test_nothing_to_save_before_the_first_rollout(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", **RUN | MINUTES)
    run.until("config.yaml")
    time.sleep(3)
    run.signalled(signal.SIGTERM)
    assert run.ended(30) in (143, -signal.SIGTERM)
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("who", ["parent", "child"])
def test_a_launched_run_stops_whoever_is_asked(who: str, tmp_path: Path) -> None:
    run = Launched(tmp_path / "run", **RUN, **TWO, **SLOW, trainer__strategy="ddp")
    run.until(SECOND)
    time.sleep(IN_SAMPLING)
    (child,) = run.children()
    os.kill(run.pid if who == "parent" else child, signal.SIGTERM)
    assert run.ended(30) == 143, run.said()[-3000:]
    assert gone(child)
    assert "SIGTERM ended the run after 2 whole rollouts; the state after 2 is in" in run.said()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "asked"),
    [(strategy, who) for strategy in ("ddp", "fsdp2") for who in ([0], [1], [0, 1])],
)
def test_every_rank_stops_and_is_resumed(strategy: str, asked: list[int], tmp_path: Path) -> None:
    """Processes started one by one, as torchrun does: the status of each is seen."""
    options = RUN | SLOW | {"trainer__strategy": strategy}
    root = tmp_path / "run"
    both = pair(root, **options)
    both[0].until(SECOND)
    time.sleep(IN_SAMPLING)
    for rank in asked:
        both[rank].signalled(signal.SIGTERM)
    assert [run.ended(30) for run in both] == [143, 143], both[0].said()[-2000:]
    finished_pair(root, log="2", ckpt_path="last", **options)
    same_run(finished_pair(tmp_path / "whole", **options), root)


@pytest.mark.slow
def test_ranks_that_draw_each_token_together_stop_after_the_last(tmp_path: Path) -> None:
    divided = '{"class_path": "FSDP2Strategy", "init_args": {"tensor_parallel_size": 2}}'
    options = RUN | SLOW | {"trainer__strategy": divided, "model__group_size": 2}
    root = tmp_path / "run"
    both = pair(root, **options)
    both[0].until("rollouts/rollout-000000-rank-000.parquet")
    time.sleep(2)
    both[1].signalled(signal.SIGTERM)
    assert [run.ended(60) for run in both] == [143, 143], both[0].said()[-2000:]
    finished_pair(root, log="2", ckpt_path="last", **options)
    same_run(finished_pair(tmp_path / "whole", **options), root)


def test_handlers_are_put_back(tmp_path: Path) -> None:
    def mine(signum: int, frame: object) -> None:
        called.append(signum)

    class Module(StubModule):
        def training_step(self, item: int, batch_idx: int) -> None:
            super().training_step(item, batch_idx)
            if self.rollout_index == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    called: list[int] = []
    before = signal.signal(signal.SIGTERM, mine)
    interrupts = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(Interrupted, match="SIGTERM"):
            fit(tmp_path, module=Module())
        assert called == [signal.SIGTERM]  # a handler that was there is not forgotten
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is interrupts
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """As under nohup."""

    class Module(StubModule):
        def training_step(self, item: int, batch_idx: int) -> None:
            super().training_step(item, batch_idx)
            os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        fit(tmp_path, module=Module())
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_fit_outside_the_main_thread_leaves_signals_alone(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            fit(tmp_path)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(120)
    assert not failed
