"""REINFORCE++ and GDPO: normalised over the batch of all ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lgrpo_lightning.contracts import RewardModel
from lgrpo_lightning.estimators import GDPO, GRPO, GTPO, LearnableTokenPreference, ReinforcePlusPlus, TreeAdv
from lgrpo_lightning.estimators.grpo import batch_statistics
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards.weighted_sum import RewardSum
from lgrpo_lightning.testing import toy_group, toy_tree
from lgrpo_lightning.types import Rewards
from tests.reference import naive_estimators as papers

SEEDS = range(30)
NAN = papers.NAN


@pytest.mark.parametrize("over", ["tokens", "completions"])
@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_reinforce_plus_plus(seed: int, baseline: bool, over: Any) -> None:
    batch = papers.Batch(seed)
    found = batch.credits(ReinforcePlusPlus(baseline=baseline, normalize_over=over))
    wanted = papers.reinforce_plus_plus(batch, baseline=baseline, tokens=over == "tokens")
    for values, group, credit in zip(wanted, batch.groups, found, strict=True):
        papers.assert_close(credit.advantages, papers.spread(values, group))


@pytest.mark.parametrize("seed", SEEDS)
def test_gdpo(seed: int) -> None:
    batch = papers.Batch(seed)
    for values, group, credit in zip(papers.gdpo(batch), batch.groups, batch.credits(GDPO()), strict=True):
        papers.assert_close(credit.advantages, papers.spread(values, group))


@pytest.mark.parametrize("seed", SEEDS)
def test_gdpo_equals_trl(seed: int) -> None:
    """``multi_objective_aggregation="normalize_then_sum"``, on rewards that differ within each group."""
    trl = pytest.importorskip("trl.trainer.utils")
    generator = torch.Generator().manual_seed(seed)
    told = torch.rand(3, 4, 2, generator=generator)  # groups, completions, reward functions
    told[0, 1, 0] = told[1, 2] = NAN
    weights = torch.tensor([2.0, 0.25])
    mean, std = torch.nanmean(told, dim=1, keepdim=True), trl.nanstd(told, dim=1, keepdim=True)
    sums = (((told - mean) / (std + 1e-4)).view(-1, 2) * weights).nansum(1)
    sums[told.view(-1, 2).isnan().all(1)] = NAN
    theirs = ((sums - sums.nanmean()) / (trl.nanstd(sums) + 1e-4)).nan_to_num(0.0).view(3, 4)
    rewards = [
        Rewards(
            outcome=torch.where(t.isnan().all(1), NAN, (t * weights).nansum(1)),
            parts={"a": t[:, 0], "b": t[:, 1]},
            part_weights={"a": 2.0, "b": 0.25},
        )
        for t in told
    ]
    trees = [ProcessTree.from_sequences([[1], [2], [3], [4]])] * 3
    for row, credit in zip(theirs, GDPO().estimate_batch(rewards, trees, reduce=lambda x: x), strict=True):
        torch.testing.assert_close(credit.advantages[:, 0], row, atol=1e-5, rtol=1e-5)


def test_reinforce_plus_plus_by_hand() -> None:
    """Rewards 1 and 0 with one and three tokens. Over tokens: mean 1/4, deviation 1/2. Over completions: 1/2, 1/√2."""
    tree = ProcessTree.from_sequences([[1], [2, 2, 2]])
    rewards = Rewards(outcome=torch.tensor([1.0, 0.0]))
    found = ReinforcePlusPlus(eps=1e-9).estimate(rewards, tree).advantages
    assert found[:, 0].tolist() == pytest.approx([1.5, -0.5])
    found = ReinforcePlusPlus(eps=1e-9, normalize_over="completions").estimate(rewards, tree).advantages
    assert found[:, 0].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)])


def test_gdpo_tells_apart_what_grpo_does_not() -> None:
    """Two rewards of 0 and 1: sums 0, 1, 1, 2 or parts that differ where the sums are equal."""
    parts = {"a": torch.tensor([1.0, 0.0, 0.0, 0.0]), "b": torch.tensor([0.0, 1.0, 1.0, 0.0])}
    rewards = Rewards(outcome=parts["a"] + parts["b"], parts=parts)
    tree = ProcessTree.from_sequences([[1], [2], [3], [4]])
    grpo = GRPO().estimate(rewards, tree).advantages[:, 0]
    gdpo = GDPO().estimate(rewards, tree).advantages[:, 0]
    assert grpo[0] == grpo[1]
    assert gdpo[0] > gdpo[1] + 0.1


class Two(RewardModel):
    """A model whose reward has two parts, or one under its own name."""

    def __init__(self, parts: bool) -> None:
        self.named = parts

    def score(self, group: Any, tree: Any) -> Rewards:
        outcome = torch.arange(float(len(group)))
        return Rewards(outcome=outcome, parts={"x": outcome / 2, "y": outcome / 2} if self.named else {})


def test_the_sum_keeps_the_weights_of_its_parts() -> None:
    group = toy_group(["a", "b"])
    both = RewardSum([Two(True), Two(False), Two(True)], [2.0, 0.5, -1.0])
    rewards = both.score_batch([group], [toy_tree(group)])[0]
    assert rewards.part_weights == {"x": 2.0, "y": 2.0, "Two": 0.5, "x_2": -1.0, "y_2": -1.0}
    assert set(rewards.part_weights) == set(rewards.parts)
    total = sum(rewards.part_weights[name] * part for name, part in rewards.parts.items())
    torch.testing.assert_close(total, rewards.outcome)
    nested = RewardSum([both], [3.0]).score_batch([group], [toy_tree(group)])[0]
    assert nested.part_weights["x_2"] == -3.0


@pytest.mark.parametrize(
    "make",
    [
        ReinforcePlusPlus,
        lambda: ReinforcePlusPlus(baseline=True),
        lambda: ReinforcePlusPlus(normalize_over="completions"),
        GDPO,
        lambda: TreeAdv(scale="batch"),
        lambda: GTPO(scale="batch"),
        LearnableTokenPreference,
    ],
)
@pytest.mark.parametrize("split", [0, 1, 3])
def test_two_ranks_are_one(make: Any, split: int) -> None:
    """Groups over two ranks, one of which may have none."""
    batch = papers.Batch(7)
    whole = batch.credits(make())
    shares = [slice(0, split), slice(split, None)]
    results = papers.on_two_ranks(
        lambda rank, reduce: make().estimate_batch(
            batch.rewards[shares[rank]], batch.trees[shares[rank]], reduce=reduce
        )
    )
    for one, other in zip(whole, [*results[0], *results[1]], strict=True):
        torch.testing.assert_close(one.advantages, other.advantages, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(one.weights, other.weights)


@pytest.mark.parametrize("values", [[], [[NAN]], [[3.0], []], [[1e6, 1e6 + 2]]])
def test_batch_statistics_of_few_and_far_from_zero(values: list[list[float]]) -> None:
    mean, deviation = batch_statistics([torch.tensor(v) for v in values], lambda x: x)
    there = [v for row in values for v in row if v == v]
    assert mean.item() == pytest.approx(sum(there) / max(len(there), 1))
    assert deviation.item() == pytest.approx(2**0.5 if len(there) == 2 else 0.0)


def test_refused() -> None:
    with pytest.raises(ValueError, match="'tokens' or 'completions'"):
        ReinforcePlusPlus(normalize_over="groups")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="GDPO: eps is 0"):
        GDPO(eps=0)
