"""A function that scores steps: what it is passed, what becomes of its answer."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lgrpo_lightning.rewards import ExactMatch, RewardError, RewardSum, StepRewardFunction
from lgrpo_lightning.segmenters import DelimiterSegmenter
from lgrpo_lightning.testing import check_reward_model, toy_group
from lgrpo_lightning.types import Rewards
from tests.runs import fit, metrics, rollouts, train_metrics

GROUPS = [
    toy_group(["1\n2\n", "1\n3\n"], columns={"answer": "3"}, prompt="p0", uid="0"),
    toy_group(["4\n", "", "5"], columns={"answer": "9"}, prompt="p1", uid="1"),
]
TREES = [DelimiterSegmenter().segment(group) for group in GROUPS]


def scored(function: Any, **options: Any) -> list[Rewards]:
    return StepRewardFunction(function, **options).score_batch(GROUPS, TREES)


def right_line(steps: list[str], prefixes: list[str], **kwargs: Any) -> list[float | None]:
    """Whether a line of a sum is right, and begins with what the line before came to."""
    out: list[float | None] = []
    for step, prefix in zip(steps, prefixes, strict=True):
        left, _, total = step.strip().partition("=")
        terms = left.split("+")
        known = all(t.isdigit() for t in (*terms, total))
        follows = not prefix or prefix.strip().rpartition("=")[2] == terms[0]
        out.append(float(known and follows and sum(map(int, terms)) == int(total)) if step.strip() else None)
    return out


def test_every_step_is_passed_once_with_what_comes_before_it() -> None:
    seen: dict[str, Any] = {}

    def function(
        steps: list[str], prefixes: list[str], prompts: list[str], answer: list[str], **rest: Any
    ) -> list[float]:
        seen.update(steps=steps, prefixes=prefixes, prompts=prompts, answer=answer, rest=rest)
        return [float(i) for i in range(len(steps))]

    first, second = scored(function)
    assert seen["steps"] == ["1\n", "2\n", "3\n", "4\n", "5"]
    assert seen["prefixes"] == ["", "1\n", "1\n", "", ""]
    assert seen["prompts"] == ["p0"] * 3 + ["p1"] * 2
    assert seen["answer"] == ["3"] * 3 + ["9"] * 2
    assert set(seen["rest"]) == {"trainer_state", "log_metric"}
    assert first.steps is not None
    assert second.steps is not None
    assert (first.steps.tolist(), second.steps.tolist()) == ([0, 1, 2], [3, 4])
    assert first.outcome.isnan().all()


def test_it_may_be_async_and_answer_none() -> None:
    async def function(steps: list[str]) -> list[float | None]:
        await asyncio.sleep(0)
        return [None if s == "4\n" else 1.0 for s in steps]

    assert scored(function)[1].steps.tolist() == [pytest.approx(math.nan, nan_ok=True), 1.0]  # type: ignore[union-attr]


def test_faults_name_the_function_and_the_step() -> None:
    with pytest.raises(RewardError, match=r"returned 1 values; it must return a list of 5 numbers .* one per step"):
        scored(lambda steps: [1.0], name="f")
    with pytest.raises(RewardError, match=r"returned 'a' .* for step '1\\n' of prompt '0'"):
        scored(lambda steps: ["a"] * len(steps), name="f")

    def fails(steps: list[str]) -> list[float]:
        raise KeyError("gone")

    with pytest.raises(RewardError, match="failed with KeyError: 'gone'"):
        scored(fails)
    with pytest.warns(RuntimeWarning, match="failed with KeyError"):
        answers = scored(fails, on_error="none")
    assert all(a.steps is not None and a.steps.isnan().all() for a in answers)


def test_beside_an_outcome() -> None:
    both = RewardSum([ExactMatch(), StepRewardFunction(right_line)], [1.0, 0.5])
    summed = both.score_batch(GROUPS, TREES)
    assert summed[0].outcome.tolist() == [0.0, 1.0]
    assert summed[0].steps is not None
    assert summed[0].steps.tolist() == [0.0, 0.0, 0.0]


def test_the_contract() -> None:
    check_reward_model(StepRewardFunction(lambda steps: [float(len(s)) for s in steps]))


def process_run(root: Path, estimator: str, **changes: object) -> Path:
    return fit(
        root,
        model__reward_model="[{class_path: ExactMatch}, {class_path: StepRewardFunction, init_args: {function: "
        "tests.rewards.test_step_reward_function.right_line}}]",
        model__segmenter="DelimiterSegmenter",
        model__advantage_estimator=estimator,
        **changes,
    )


def test_a_run_with_process_rewards(tmp_path: Path) -> None:
    run = process_run(tmp_path, "BlendedGRPO")
    table = rollouts(run)
    assert all(0 <= v <= 1 for row in table["step_rewards"] for v in row if v == v)
    assert (train_metrics(run)["steps/reward"] > 0.3).all()


def test_a_run_with_process_rewards_alone(tmp_path: Path) -> None:
    function = "tests.rewards.test_step_reward_function.right_line"
    run = fit(
        tmp_path,
        model__reward_model=f"{{class_path: StepRewardFunction, init_args: {{function: {function}}}}}",
        model__segmenter="DelimiterSegmenter",
        model__advantage_estimator="ProcessGRPO",
    )
    table = metrics(run)
    assert (table["grad_norm"].dropna() > 0).all()
    assert (table["rewards/not_applicable"].dropna() == 0).all()
    assert "reward" not in table


def test_process_rewards_that_nobody_reads_are_told_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="but LambdaGRPO does not read them") as said:
        process_run(tmp_path, "LambdaGRPO")
    assert sum("process rewards" in str(w.message) for w in said) >= 1


def test_torch_is_not_asked_for_gradients() -> None:
    assert not scored(lambda steps: torch.ones(len(steps)))[0].steps.requires_grad  # type: ignore[union-attr]
