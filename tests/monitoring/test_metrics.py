"""What is logged of a rollout's rewards, against the definitions as loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from lgrpo_lightning.monitoring.metrics import Means, add_rollout_metrics, add_weight_lag, pass_rates
from lgrpo_lightning.testing import toy_group, toy_tree
from lgrpo_lightning.training import Validation
from lgrpo_lightning.training.evaluation import Evaluation, evaluation_metrics
from lgrpo_lightning.types import Credit, Group, Rewards, Rollout
from tests.reference import naive

ALMOST = 0.99999994
"""1 in fp32, less one unit in the last place."""


def rollout(groups: list[Group], rewards: list[Rewards]) -> Rollout:
    trees = [toy_tree(g) for g in groups]
    none = [Credit(advantages=torch.zeros(t.sizes.shape), weights=t.weights(0)) for t in trees]
    return Rollout(
        index=0,
        groups=tuple(groups),
        trees=tuple(trees),
        rewards=tuple(rewards),
        credits=tuple(none),
        trained=(True,) * len(groups),
    )


def metrics(groups: list[Group], outcomes: list[list[float]]) -> dict[str, float]:
    rewards = [Rewards(outcome=torch.tensor(o), parts={"a": torch.tensor(o)}) for o in outcomes]
    means = Means()
    add_rollout_metrics(means, rollout(groups, rewards), success_threshold=1.0)
    return means.values()


def test_the_deviation_of_a_part_is_that_within_groups() -> None:
    groups = [toy_group(["a", "b", "c"], uid=str(n)) for n in range(4)]
    outcomes = [[0.0] * 3, [7.0] * 3, [1.0, 2.0, 4.0], [math.nan] * 3]
    found = metrics(groups, outcomes)
    assert found["rewards/a/std"] == pytest.approx(naive.deviation(outcomes[2]) / 3)
    assert found["reward_std"] == pytest.approx(naive.deviation(outcomes[2]) / 4)


def test_means_of_rewards_far_from_0() -> None:
    outcome = [-1234567.0, -1234566.25, -1234566.5]
    found = metrics([toy_group(["a", "b", "c"])], [outcome])
    assert found["reward"] == found["rewards/a/mean"] == pytest.approx(naive.mean(outcome), rel=1e-12)
    assert found["rewards/a/std"] == found["reward_std"] == pytest.approx(naive.deviation(outcome), rel=1e-9)


def test_rounding_makes_nothing_wrong() -> None:
    group = toy_group(["a", "b"])
    found = metrics([group], [[ALMOST, 1.0]])
    assert (found["groups/all_right"], found["groups/all_wrong"], found["frac_reward_zero_std"]) == (1, 0, 1)
    rewards = [Rewards(outcome=torch.tensor([ALMOST, 0.5]))]
    assert pass_rates(rollout([group], rewards), success_threshold=1.0) == {group.prompt.uid: 0.5}
    evaluation = Evaluation(Validation(), "cpu")
    evaluation.add_greedy(rewards)
    evaluation.add_samples([group], rewards)
    assert evaluation.values()["accuracy"] == evaluation.values()["avg@k"] == 0.5


def evaluation(outcomes: list[list[float]], **options: Any) -> Evaluation:
    """Of one greedy completion a prompt, the first, and all as samples; the n-th sample has n tokens."""
    made = Evaluation(Validation(**options), "cpu")
    rewards = [Rewards(outcome=torch.tensor(o)) for o in outcomes]
    if made.options.greedy:
        made.add_greedy([Rewards(outcome=r.outcome[:1]) for r in rewards])
    groups = [toy_group(["a" * (n + 1) for n in range(len(o))], uid=str(i)) for i, o in enumerate(outcomes)]
    made.add_samples(groups, rewards)
    return made


def test_an_evaluation_by_hand() -> None:
    one = evaluation([[0.0, 2.0, 0.5], [0.0, 0.0, 0.0], [1.0, 1.0, math.nan], [math.nan] * 3], k=3)
    values = {name: float(value) for name, value in one.values().items()}
    assert values == pytest.approx({
        "accuracy": 1 / 3, "avg@k": 3 / 8, "pass@k": 2 / 3, "reward": 4.5 / 8, "completions/mean_length": 2.0,
    })  # fmt: skip
    without = evaluation([[0.0, 2.0, 0.5], [1.0, 1.0, math.nan]], k=3, greedy=False).values()
    assert float(without["accuracy"]) == float(without["avg@k"]) == pytest.approx(3 / 5)
    other = evaluation([[1.0, 1.0]], k=2)
    both = evaluation_metrics({"one": one, "other": other}, "val")
    assert float(both["val/pass@k"]) == pytest.approx((2 / 3 + 1) / 2)
    assert (float(both["val/one/avg@k"]), float(both["val/other/avg@k"])) == (3 / 8, 1)
    assert set(evaluation_metrics({"none": evaluation([[math.nan] * 2], k=2)}, "val")) == {
        "val/completions/mean_length"
    }


def test_a_dropped_episode_is_in_no_statistic() -> None:
    group = toy_group(["ab", "ac", "a" * 9])
    rollouts = (*group.completions[:2], replace(group.completions[2], applies=False))
    found = metrics([replace(group, completions=rollouts)], [[1.0, 0.0, math.nan]])
    assert found["completions/mean_length"] == found["completions/max_length"] == 2
    assert found["tree/intermediate_proportion"] == 0.5
    assert found["rewards/not_applicable"] == pytest.approx(1 / 3)


def test_the_lag_is_that_of_the_oldest_weights() -> None:
    group = toy_group([[5, 6], [7]])
    old, new = (replace(c, weight_version=v) for c, v in zip(group.completions, (3, 5), strict=True))
    made = rollout([replace(group, completions=(old, new))], [Rewards(outcome=torch.zeros(2))])
    means = Means()
    with pytest.warns(UserWarning, match="older than those it was given"):
        add_weight_lag(means, made, 6, expected=5)
    assert means.values()["sampling/weight_lag"] == 3
