"""Rewards of episodes, and turns as steps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards import EnvironmentReward
from lgrpo_lightning.segmenters import TurnSegmenter
from lgrpo_lightning.testing import check_segmenter, toy_group
from lgrpo_lightning.types import Group, Turn


def episodes() -> Group:
    """Two that part in their second turn of the policy, one that parted in the first, one that paid once."""
    group = toy_group(["aaXbb", "aaXcb", "abXbb", "aa"])
    spans = [[(0, 2), (2, 3), (3, 5)]] * 3 + [[(0, 2)]]
    rewards = [(1.0, 2.0), (1.0, 4.0), (0.0, 8.0), (0.5,)]
    made = [
        replace(
            rollout,
            turns=tuple(
                Turn(role="environment" if n == 1 else "assistant", start=a, end=b, messages=())
                for n, (a, b) in enumerate(own)
            ),
            rewards=paid,
        )
        for rollout, own, paid in zip(group.completions, spans, rewards, strict=True)
    ]
    return replace(group, completions=tuple(made))


def test_equal_turns_after_equal_histories_are_one_step() -> None:
    tree = TurnSegmenter().segment(episodes())
    assert tree.set_sizes().tolist() == [
        [3, 3, 2, 1, 1],
        [3, 3, 2, 1, 1],
        [1, 1, 1, 1, 1],
        [3, 3, 0, 0, 0],
    ]
    assert [step.members for step in tree.steps][:2] == [(0, 1, 3), (0, 1)]
    check_segmenter(TurnSegmenter())


def test_turns_pay_in_the_step_that_they_end_in() -> None:
    group = episodes()
    tree = TurnSegmenter().segment(group)
    rewards = EnvironmentReward().score(group, tree)
    assert rewards.outcome.tolist() == [3.0, 5.0, 8.0, 0.5]
    assert rewards.steps is not None
    paid = {step.members + step.spans[0]: v for step, v in zip(tree.steps, rewards.steps.tolist(), strict=True)}
    assert paid[(0, 1, 3, 0, 2)] == pytest.approx(2.5 / 3)
    assert math.isnan(paid[(0, 1, 2, 3)])
    assert [paid[(m, 3, 5)] for m in (0, 1, 2)] == [2.0, 4.0, 8.0]
    exact = ProcessTree.from_sequences(group.sequences)
    found = EnvironmentReward().score(group, exact).steps
    assert found is not None
    assert float(found.nansum()) > 0


def test_one_number_is_no_step_reward() -> None:
    group = episodes()
    single = replace(group, completions=tuple(replace(r, rewards=(2.0,)) for r in group.completions))
    rewards = EnvironmentReward().score(single, TurnSegmenter().segment(single))
    assert rewards.steps is None
    assert rewards.outcome.tolist() == [2.0] * 4


def test_what_does_not_apply_is_no_number() -> None:
    group = episodes()
    dropped = replace(group, completions=(replace(group.completions[0], rewards=(math.nan,)), *group.completions[1:]))
    outcome = EnvironmentReward().score(dropped, TurnSegmenter().segment(dropped)).outcome
    assert outcome.isnan().tolist() == [True, False, False, False]


def test_completions_that_are_no_episodes_are_refused() -> None:
    group = toy_group(["a", "b"])
    with pytest.raises(ValueError, match=r"model\.sampler: EnvironmentSampler"):
        EnvironmentReward().score(group, TurnSegmenter().segment(group))
    assert torch.equal(TurnSegmenter().segment(group).set_sizes(), torch.tensor([[1], [1]]))
