import asyncio
import contextlib
import functools
import logging
import math
import sys
import warnings
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerState

from lgrpo_lightning.rewards import RewardError, RewardFunction
from lgrpo_lightning.testing import check_reward_model, toy_group, toy_tree
from lgrpo_lightning.types import Progress
from tests.rewards import sample_functions

HOME = "tests.rewards.sample_functions"
CHAT = ({"role": "user", "content": "1+1="},)


def scored(function, *groups, **options):
    model = RewardFunction(function, **options)
    try:
        return model.score_batch(groups, [toy_tree(g) for g in groups])
    finally:
        model.teardown()


@pytest.mark.parametrize("function", ["only_completions", "slow_length", "judge", "exact"])
def test_keeps_the_contract(function):
    check_reward_model(RewardFunction(f"{HOME}.{function}"))


def test_called_once_with_all_groups_one_after_the_other():
    sample_functions.seen.clear()
    one = toy_group(["a", "b"], columns={"answer": "a", "level": 1}, uid="1", prompt="p")
    two = toy_group(["c"], columns={"answer": "c"}, uid="2", prompt="q")
    rewards = scored(f"{HOME}:records", one, two)
    (passed,) = sample_functions.seen
    assert [r.outcome.tolist() for r in rewards] == [[0.0, 1.0], [2.0]]
    assert passed["prompts"] == ["p", "p", "q"]
    assert passed["completions"] == ["a", "b", "c"]
    assert passed["completion_ids"] == [[97], [98], [99]]
    assert passed["answer"] == ["a", "a", "c"]
    assert passed["level"] == [1, 1, None]
    assert rewards[0].parts.keys() == {"records"}


@pytest.mark.parametrize("chat", [False, True])
def test_passes_what_trl_passes(chat):
    """Both call the same function; what it was given and what becomes of its answer must agree."""
    trl = pytest.importorskip("trl.trainer.grpo_trainer")
    calls = []

    def reward(**kwargs):
        calls.append(kwargs)
        kwargs["log_extra"]("n", list(range(3)))
        kwargs["log_metric"]("m", 2.0)
        return [1, None, 0.5]

    group = toy_group(["a", "b", "c"], columns={"answer": "x", "level": 2}, messages=CHAT if chat else None)
    (ours,) = scored(reward, group)
    prompts = [list(CHAT)] * 3 if chat else ["1+1="] * 3
    completions = [[{"role": "assistant", "content": c}] if chat else c for c in "abc"]
    inputs = [{"prompt": p, "answer": "x", "level": 2} for p in prompts]
    stub = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", is_main_process=False),
        state=TrainerState(),
        environments=None,
        reward_funcs=[reward],
        reward_processing_classes=[None],
        reward_func_names=["reward"],
        _pending_extra_logs=defaultdict(list),
        _pending_metrics=defaultdict(list),
    )
    for name in ("_log_completion_extra", "_log_metric"):
        setattr(stub, name, functools.partial(getattr(trl.GRPOTrainer, name), stub))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trl, "gather", lambda x: x)
        patch.setattr(trl, "logger", logging.getLogger("trl"))
        patch.setattr(trl, "profiling_context", lambda *_: contextlib.nullcontext())
        theirs = trl.GRPOTrainer._calculate_rewards(stub, inputs, prompts, completions, [[97], [98], [99]])
    mine, trls = calls
    assert mine.keys() == trls.keys()
    for key in mine.keys() - {"trainer_state", "log_extra", "log_metric"}:
        assert mine[key] == trls[key], key
    assert isinstance(mine["trainer_state"], TrainerState)
    assert torch.equal(ours.outcome.nan_to_num(-9), theirs[:, 0].nan_to_num(-9))
    assert ours.extras == stub._pending_extra_logs
    assert ours.metrics["m"] == 2.0


def test_trls_own_rewards_run_unchanged():
    pytest.importorskip("trl.rewards")
    group = toy_group(["<think>\nx\n</think>\n4", "4"], messages=CHAT)
    (rewards,) = scored("trl.rewards.think_format_reward", group)
    assert rewards.outcome.tolist() == [1.0, 0.0]


def test_none_is_nan_and_returned_nan_is_counted():
    group = toy_group(["a", "b", "c"])
    (rewards,) = scored(lambda completions: [None, math.nan, 1.0], group, name="f")
    assert rewards.outcome.isnan().tolist() == [True, True, False]
    assert rewards.metrics == {"rewards/f/nan": 1.0, "rewards/f/errors": 0.0}


def test_chat_completions_are_messages():
    (rewards,) = scored(f"{HOME}.chat_length", toy_group(["abc", ""], messages=CHAT))
    assert rewards.outcome.tolist() == [3.0, 0.0]


def test_async_also_inside_a_running_loop():
    async def notebook():
        return scored(f"{HOME}.slow_length", toy_group(["ab"]))

    assert asyncio.run(notebook())[0].outcome.tolist() == [2.0]
    assert scored(f"{HOME}.judge", toy_group(["ab", "abc"]), kwargs={"threshold": 2})[0].outcome.tolist() == [
        1.0,
        1.0,
    ]


def test_async_time_out():
    async def forever(completions):
        await asyncio.sleep(60)

    with pytest.raises(RewardError, match="'forever' failed with TimeoutError"):
        scored(forever, toy_group(["a"]), timeout=0.05)


def test_log_extra_log_metric_and_trainer_state():
    model = RewardFunction(f"{HOME}.logs")
    model.start(Progress(rollout=3, global_step=7, epoch=1, max_steps=20))
    groups = [toy_group(["a", "bcd"]), toy_group(["e", "f"])]
    one, two = model.score_batch(groups, [toy_tree(g) for g in groups])
    assert one.outcome.tolist() == [7.0, 7.0]
    assert one.extras == {"upper": ["A", "BCD"]}
    assert two.extras == {"upper": ["E", "F"]}
    counts = {"rewards/logs/nan": 0.0, "rewards/logs/errors": 0.0}
    assert one.metrics == two.metrics == {"mean_length": 0.75, **counts}


def test_columns_names_and_partials():
    assert RewardFunction(f"{HOME}.exact").columns == ("answer",)
    assert RewardFunction(f"{HOME}.only_completions").columns == ()
    assert RewardFunction(f"{HOME}.judge").name == "Judge"
    bound = functools.partial(sample_functions.exact, answer=["a"])
    assert RewardFunction(bound).name == "exact"
    assert RewardFunction(f"{HOME}.exact", name="right", kwargs={"answer": ["a"]}).columns == ()
    assert RewardFunction(f"{HOME}.exact", name="right").name == "right"


def test_no_groups():
    assert scored(f"{HOME}.only_completions") == []


def test_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "rewards_beside_me.py").write_text("def one(completions):\n    return [1.0] * len(completions)\n")
    (tmp_path / "broken_rewards.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in sys.path if p])
    assert scored("rewards_beside_me.one", toy_group(["a"]))[0].outcome.tolist() == [1.0]
    with pytest.raises(ValueError, match="importing 'broken_rewards' failed with ModuleNotFoundError"):
        RewardFunction("broken_rewards.one")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("exact", "no import path; write it as 'package.module.function'"),
        ("nowhere_to_be_found.f", "there is no module 'nowhere_to_be_found'"),
        (f"{HOME}.exacd", "has no 'exacd'. Did you mean 'exact'. It has: .*only_completions"),
        (f"{HOME}.exact.twice", "has no 'twice'"),
        (f"{HOME}.Judge", "got the class Judge"),
        (f"{HOME}.seen", "got a list"),
        (lambda prompts, /: [], r"takes \['prompts'\] by position only"),
    ],
)
def test_refused_at_once(function, message):
    with pytest.raises(ValueError, match=message):
        RewardFunction(function)


@pytest.mark.parametrize("kwargs", [{"threshold": 1}, {"completions": []}])
def test_refuses_kwargs_that_it_cannot_pass(kwargs):
    with pytest.raises(ValueError, match=r"'only_completions' cannot be given kwargs .*are passed already"):
        RewardFunction(f"{HOME}.only_completions", kwargs=kwargs)


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_refuses_no_time(timeout):
    with pytest.raises(ValueError, match="seconds above 0"):
        RewardFunction(f"{HOME}.only_completions", timeout=timeout)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0], "returned 1 values; it must return a list of 2 numbers"),
        (None, "returned a NoneType; it must"),
        ([1.0, "2"], r"returned '2' \(a str\) for completion 1"),
        ([1.0, [2.0]], r"returned \[2.0\] \(a list\) for completion 1"),
        ([1.0, torch.zeros(3)], r"\(a Tensor\) for completion 1"),
    ],
)
def test_wrong_answers(answer, message):
    with pytest.raises(RewardError, match=message):
        scored(lambda completions: answer, toy_group(["a", "b"]))


def test_tensors_and_bools_are_numbers():
    group = toy_group(["a", "b"])
    assert scored(lambda completions: torch.tensor([1, 2]), group)[0].outcome.tolist() == [1.0, 2.0]
    assert scored(lambda completions: [True, torch.tensor(0.5)], group)[0].outcome.tolist() == [1.0, 0.5]


def test_an_exception_names_the_function_and_the_first_prompts():
    def divides(completions):
        return 1 / 0

    with pytest.raises(
        RewardError, match=r"'divides' failed with ZeroDivisionError(.|\n)*first prompts: toy/0 '1\+1='"
    ):
        scored(divides, toy_group(["a"]))


def test_returned_nan_is_said_once():
    model, group = RewardFunction(lambda completions: [math.nan, 1.0]), toy_group(["a", "b"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            model.score_batch([group], [toy_tree(group)])
    assert len([w for w in said if "returned NaN for 1 of 2" in str(w.message)]) == 1


def test_log_extra_of_the_wrong_length():
    def short(completions, log_extra):
        log_extra("x", [1])
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match=r"log_extra .*is not 2, one per completion: \{'x': 1\}"):
        scored(short, toy_group(["a", "b"]))
