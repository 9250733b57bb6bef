"""TreeAdv and GTPO: what a token is worth depends on who shares it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lgrpo_lightning.estimators import GRPO, GTPO, ImplicitPRM, TreeAdv
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Rewards
from tests.reference import naive_estimators as papers

SEEDS = range(30)


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_tree_adv(seed: int, q: float) -> None:
    batch = papers.Batch(seed)
    found = batch.credits(TreeAdv(leaf_power=q))
    for outcome, group, credit in zip(batch.outcomes, batch.groups, found, strict=True):
        papers.assert_close(credit.advantages, papers.tree_adv(outcome, group, q))


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_gtpo(seed: int, factor: float) -> None:
    batch = papers.Batch(seed)
    found = batch.credits(GTPO(conflict_factor=factor))
    for outcome, group, credit in zip(batch.outcomes, batch.groups, found, strict=True):
        papers.assert_close(credit.advantages, papers.gtpo(outcome, group, factor))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_the_mean_of_leaves_is_the_implicit_prm(scale: Any) -> None:
    batch = papers.Batch(5)
    for one, other in zip(batch.credits(TreeAdv(scale=scale)), batch.credits(ImplicitPRM(scale=scale)), strict=True):
        assert torch.equal(one.advantages, other.advantages)


def test_gtpo_by_hand() -> None:
    """Three begin alike, two of them right and one wrong; the fourth shares nothing and is wrong."""
    tree = ProcessTree.from_sequences([[1, 2], [1, 3], [1, 2, 4], [5]])
    rewards = Rewards(outcome=torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert GTPO(scale="none").estimate(rewards, tree).advantages.tolist() == [
        [1.0, 0.5, 0.0],
        [0.0, -0.5, 0.0],
        [1.0, 0.5, 0.5],
        [-0.5, 0.0, 0.0],
    ]


def test_gtpo_is_grpo_where_nothing_is_shared() -> None:
    tree = ProcessTree.from_sequences([[1, 2], [2], [3, 3, 3]])
    rewards = Rewards(outcome=torch.tensor([1.0, 0.0, 0.25]))
    assert torch.equal(GTPO().estimate(rewards, tree).advantages, GRPO().estimate(rewards, tree).advantages)


def test_no_shared_token_of_a_right_completion_goes_down() -> None:
    for seed in SEEDS:
        batch = papers.Batch(seed)
        for tree, grpo, gtpo in zip(batch.trees, batch.credits(GRPO()), batch.credits(GTPO()), strict=True):
            shared = tree.set_means((grpo.advantages[:, 0] > 0).float()) > 0
            assert (gtpo.advantages[shared] >= 0).all()


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_refused(value: float) -> None:
    with pytest.raises(ValueError, match="TreeAdv: leaf_power is"):
        TreeAdv(leaf_power=value)
    with pytest.raises(ValueError, match="GTPO: conflict_factor is"):
        GTPO(conflict_factor=value)
