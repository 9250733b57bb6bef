"""What else is called λ-GRPO: learnable token preferences, and eligibility traces."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from lgrpo_lightning.checkpoints.state import load_component_state, read_component_state
from lgrpo_lightning.estimators import GRPO, EligibilityTraceGRPO, LearnableTokenPreference
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Rewards
from tests.reference import naive
from tests.reference import naive_estimators as papers

SEEDS = range(30)


# ------------------------------------------------------------------------------------------------ traces


@pytest.mark.parametrize(("decay", "gamma", "floor"), [(0.99, 1.0, None), (0.9, 0.8, -0.1), (0.0, 1.0, None)])
@pytest.mark.parametrize("seed", SEEDS)
def test_eligibility_traces(seed: int, decay: float, gamma: float, floor: float | None) -> None:
    batch = papers.Batch(seed)
    found = batch.credits(EligibilityTraceGRPO(trace_decay=decay, gamma=gamma, min_advantage=floor))
    for outcome, group, credit in zip(batch.outcomes, batch.groups, found, strict=True):
        papers.assert_close(credit.advantages, papers.traces(outcome, group, decay * gamma, floor))


def test_without_decay_it_is_grpo() -> None:
    batch = papers.Batch(2)
    one, other = batch.credits(EligibilityTraceGRPO(trace_decay=1.0)), batch.credits(GRPO())
    assert all(torch.equal(a.advantages, b.advantages) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "options", [{"trace_decay": 1.1}, {"gamma": -0.1}, {"gamma": float("nan")}, {"min_advantage": 0.1}]
)
def test_traces_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"EligibilityTraceGRPO: {next(iter(options))} is"):
        EligibilityTraceGRPO(**options)


# ------------------------------------------------------------------------------------------------ preferences


@pytest.mark.parametrize("preference", [-3.0, 0.0, 0.5, 4.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_weights_by_length(seed: int, preference: float) -> None:
    batch = papers.Batch(seed)
    estimator = LearnableTokenPreference(preference_lr=0.0)
    estimator.preference = preference
    for outcome, group, credit in zip(batch.outcomes, batch.groups, batch.credits(estimator), strict=True):
        papers.assert_close(credit.weights, papers.spread(papers.preferences(group, preference, 1 / 9), group))
        papers.assert_close(credit.advantages, papers.spread(naive.advantages(outcome), group))
    assert estimator.preference == preference


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("preference", [0.0, -2.0, 1.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_step_goes_down_the_slope_of_the_loss(seed: int, preference: float, power: float) -> None:
    batch = papers.Batch(seed)
    estimator = LearnableTokenPreference(preference_lr=0.1, length_ratio=0.3, lambda_power=power)
    estimator.preference = preference
    batch.credits(estimator)
    low, high = (papers.preference_loss(batch, preference + d, 0.3, power) for d in (-1e-4, 1e-4))
    assert estimator.preference - preference == pytest.approx(-0.1 * (high - low) / 2e-4, abs=1e-6)


def test_it_learns_what_the_rewards_prefer() -> None:
    for right, sign in ((0, 1), (1, -1)):
        estimator = LearnableTokenPreference(preference_lr=1.0)
        tree = ProcessTree.from_sequences([[1] * 9, [2]])
        rewards = Rewards(outcome=torch.tensor([float(right == 0), float(right == 1)]))
        for _ in range(50):
            weights = estimator.estimate_batch([rewards], [tree], reduce=lambda x: x)[0].weights
        assert sign * estimator.preference > 0.5
        assert (weights[0, 0] > 1 > weights[1, 0]) == (sign > 0)


def test_one_group_by_itself_teaches_nothing() -> None:
    estimator = LearnableTokenPreference(preference_lr=1.0)
    batch = papers.Batch(1)
    estimator.estimate(batch.rewards[1], batch.trees[1])
    assert estimator.preference == 0.0


def test_two_ranks_learn_the_same() -> None:
    batch = papers.Batch(4)
    alone = LearnableTokenPreference(preference_lr=1.0)
    batch.credits(alone)
    shares = [slice(0, 1), slice(1, None)]

    def learned(rank: int, reduce: Any) -> float:
        estimator = LearnableTokenPreference(preference_lr=1.0)
        estimator.estimate_batch(batch.rewards[shares[rank]], batch.trees[shares[rank]], reduce=reduce)
        return estimator.preference

    one, other = papers.on_two_ranks(learned)
    assert one == other == pytest.approx(alone.preference, abs=1e-12)
    assert alone.preference != 0.0


def test_a_checkpoint_keeps_what_was_learned() -> None:
    estimator = LearnableTokenPreference(preference_lr=1.0)
    papers.Batch(1).credits(estimator)
    file = io.BytesIO()
    torch.save(read_component_state({"advantage_estimator": estimator}), file)
    file.seek(0)
    again = LearnableTokenPreference(preference_lr=1.0)
    load_component_state({"advantage_estimator": again}, torch.load(file, weights_only=True))
    assert again.preference == estimator.preference != 0.0
    for one, other in zip(papers.Batch(2).credits(estimator), papers.Batch(2).credits(again), strict=True):
        assert torch.equal(one.weights, other.weights)


@pytest.mark.parametrize("preference", [1e4, -1e4])
def test_an_extreme_preference_stays_finite(preference: float) -> None:
    estimator = LearnableTokenPreference(preference_lr=0.0, length_ratio=5.0)
    estimator.preference = preference
    for credit in papers.Batch(1).credits(estimator):
        assert credit.weights.isfinite().all()


@pytest.mark.parametrize("options", [{"length_ratio": 0.0}, {"length_ratio": float("inf")}, {"preference_lr": -1.0}])
def test_preferences_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"LearnableTokenPreference: {next(iter(options))} is"):
        LearnableTokenPreference(**options)
