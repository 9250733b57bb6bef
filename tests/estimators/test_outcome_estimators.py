"""RLOO, MaxRL, PassAtK and FocalGRPO: one number a completion, from its group alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lgrpo_lightning.estimators import GRPO, RLOO, FocalGRPO, MaxRL, PassAtK
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Rewards
from tests.reference import naive_estimators as papers

SEEDS = range(30)
NAN = papers.NAN


def of(estimator: Any, *outcome: float) -> list[float]:
    """Advantages of completions that share nothing."""
    tree = ProcessTree.from_sequences([[i] for i in range(len(outcome))])
    return list(estimator.estimate(Rewards(outcome=torch.tensor(outcome)), tree).advantages[:, 0].tolist())


@pytest.mark.parametrize("seed", SEEDS)
def test_rloo(seed: int) -> None:
    batch = papers.Batch(seed, values=(0.0, -2.5, 1.0, 1.0, NAN))
    for outcome, group, credit in zip(batch.outcomes, batch.groups, batch.credits(RLOO()), strict=True):
        papers.assert_close(credit.advantages, papers.spread(papers.rloo(outcome), group))


@pytest.mark.parametrize("seed", SEEDS)
def test_max_rl(seed: int) -> None:
    batch = papers.Batch(seed)
    for outcome, group, credit in zip(batch.outcomes, batch.groups, batch.credits(MaxRL()), strict=True):
        papers.assert_close(credit.advantages, papers.spread(papers.max_rl(outcome, 1e-6), group))


@pytest.mark.filterwarnings("ignore:PassAtK")
@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", SEEDS)
def test_pass_at_k_equals_the_mean_over_all_subsets(seed: int, k: int) -> None:
    batch = papers.Batch(seed)
    found = batch.credits(PassAtK(k=k, success_threshold=0.5))
    for outcome, group, credit in zip(batch.outcomes, batch.groups, found, strict=True):
        papers.assert_close(credit.advantages, papers.spread(papers.pass_at_k(outcome, k, 0.5), group))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_focal_grpo(seed: int, gamma: float) -> None:
    batch = papers.Batch(seed)
    found = batch.credits(FocalGRPO(focal_gamma=gamma, success_threshold=0.5))
    for outcome, group, credit in zip(batch.outcomes, batch.groups, found, strict=True):
        papers.assert_close(credit.advantages, papers.spread(papers.focal(outcome, gamma, 0.5), group))


def test_focal_grpo_by_hand() -> None:
    """Three of four right: (1/4)^2 times GRPO's 1/4 and -3/4; what does not apply is in no rate. γ = 0: GRPO."""
    rewards = [1.0, 1.0, NAN, 1.0, 0.0]
    found = of(FocalGRPO(focal_gamma=2.0, scale="none"), *rewards)
    assert found == pytest.approx([1 / 64, 1 / 64, 0.0, 1 / 64, -3 / 64])
    assert of(FocalGRPO(focal_gamma=0.0), *rewards) == of(GRPO(), *rewards)


def test_rloo_by_hand() -> None:
    """Against the means of the others: 3 - 0, 0 - 3/2, 0 - 3/2; what does not apply leaves n."""
    assert of(RLOO(), 3.0, 0.0, NAN, 0.0) == pytest.approx([3.0, -1.5, 0.0, -1.5])
    assert of(RLOO(), 3.0) == [0.0]


def test_max_rl_by_hand() -> None:
    """One of four right: (1 - 1/4) · 4 = 3, and -1 for the others. A harder prompt counts more than in GRPO."""
    assert of(MaxRL(), 1.0, 0.0, 0.0, 0.0) == pytest.approx([3.0, -1.0, -1.0, -1.0], abs=1e-4)
    assert of(MaxRL(), 1.0, 1.0, 0.0, 0.0) == pytest.approx([1.0, 1.0, -1.0, -1.0], abs=1e-4)


def test_pass_at_k_by_hand() -> None:
    """n = 4, two right, k = 2: 1 of 6 pairs has none, so mean 5/6 and σ = √5/6.

    A_+ = (1/6) / σ = 1/√5; a wrong one misses in 1 of its 3 pairs: A_- = (1/6 - 1/3) / σ = -1/√5.
    """
    found = of(PassAtK(k=2), 1.0, 0.0, 1.0, 0.5)
    assert found == pytest.approx([5**-0.5, -(5**-0.5), 5**-0.5, -(5**-0.5)])


def test_pass_at_k_of_one_is_grpo_with_the_population_deviation() -> None:
    rewards = [1.0, 0.0, 0.0, NAN, 1.0, 0.0]
    grpo = of(GRPO(eps=1e-12), *rewards)
    assert of(PassAtK(k=1), *rewards) == pytest.approx([a * (5 / 4) ** 0.5 for a in grpo], abs=1e-5)


def test_pass_at_k_is_nothing_where_it_is_certain() -> None:
    assert not any(of(PassAtK(k=3), 1.0, 1.0, 0.0, 0.0))  # two wrong ones: every three hold a right one
    assert any(of(PassAtK(k=3), 1.0, 0.0, 0.0, 0.0))
    with pytest.warns(UserWarning, match="k is 8 and a group has 2 completions"):
        assert of(PassAtK(k=8), 1.0, 0.0) == [0.0, 0.0]


def test_large_groups() -> None:
    found = of(PassAtK(k=512), *[1.0] * 10, *[0.0] * 2000)
    assert all(abs(a) < 10 for a in found)
    assert found[0] > 0 > found[-1]


def test_refused() -> None:
    with pytest.raises(ValueError, match="PassAtK: k is 0"):
        PassAtK(k=0)
    with pytest.raises(ValueError, match="FocalGRPO: focal_gamma is -1"):
        FocalGRPO(focal_gamma=-1)
    with pytest.raises(ValueError, match="MaxRL: mean_eps is 0"):
        MaxRL(mean_eps=0)
    with pytest.raises(ValueError, match=r"rewards must be at least 0; got \[1.0, -1.0\]"):
        of(MaxRL(), 1.0, -1.0)
