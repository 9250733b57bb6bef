"""Down-sampling: the members with the largest variance, and credit as if only they had been sampled."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from lgrpo_lightning import GRPOModule
from lgrpo_lightning.contracts import RewardModel, StepSegmenter
from lgrpo_lightning.estimators import ProcessGRPO, TreeGAE
from lgrpo_lightning.monitoring.recorded_group import build_nodes
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.registry.hookspecs import PROJECT
from lgrpo_lightning.registry.lookup import components
from lgrpo_lightning.rewards import ExactMatch
from lgrpo_lightning.rollouts.rollout_rows import build_table
from lgrpo_lightning.rollouts.selection import choose_varied
from lgrpo_lightning.segmenters import TokenPrefixSegmenter, WindowSegmenter
from lgrpo_lightning.testing import toy_group
from lgrpo_lightning.training import Updates
from lgrpo_lightning.types import Group, Rewards, Rollout, TrainBatch
from tests.reference.groups import random_group

SIZE, KEPT = 6, 3
ESTIMATORS = sorted(
    name
    for name, c in components().items()
    if c.kind == "advantage_estimator" and c.package == PROJECT and "steps" not in c.cls.reads
)


def variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values)


@pytest.mark.parametrize("seed", range(60))
def test_no_other_members_have_a_larger_variance(seed: int) -> None:
    draw = random.Random(seed)
    rewards = [draw.choice([0.0, 0.1, 0.5, 1.0, 1.0, draw.gauss(0, 2), math.nan]) for _ in range(draw.randint(2, 8))]
    count = draw.randint(2, len(rewards))
    chosen = choose_varied(torch.tensor(rewards), count)
    assert len(set(chosen)) == count
    assert list(chosen) == sorted(chosen)
    valid = [i for i, r in enumerate(rewards) if not math.isnan(r)]
    told = [i for i in chosen if i in valid]
    assert len(told) == min(count, len(valid))
    most = max(variance([rewards[i] for i in s]) if s else 0.0 for s in itertools.combinations(valid, len(told)))
    assert (variance([rewards[i] for i in told]) if told else 0.0) == pytest.approx(most, rel=1e-6, abs=1e-12)


def test_by_hand() -> None:
    """Of 0, 1, 0.5, 1, 1: 0 and two of the 1 have 2/9, 0, 0.5, 1 have 1/6. All equal: none is better."""
    assert choose_varied(torch.tensor([0.0, 1.0, 0.5, 1.0, 1.0]), 3) == (0, 3, 4)
    assert choose_varied(torch.tensor([1.0, 0.0, 0.0, 0.0]), 2) in {(0, 1), (0, 2), (0, 3)}
    assert len(choose_varied(torch.full((5,), 0.7), 3)) == 3
    assert choose_varied(torch.tensor([math.nan, 0.0, math.nan, 1.0]), 3) == (0, 1, 3)
    assert choose_varied(torch.full((4,), math.nan), 2) == (0, 1)


class Told(RewardModel):
    """Outcomes in two parts, and rewards of tokens for an estimator that reads them."""

    def __init__(self, *, tokens: bool) -> None:
        self.tokens = tokens

    def score(self, group: Group, tree: ProcessTree) -> Rewards:
        draw = random.Random(group.prompt.uid)
        parts = {n: torch.tensor([draw.choice([0.0, 0.5, 1.0, math.nan]) for _ in group.completions]) for n in "ab"}
        tokens = torch.where(tree.sizes > 0, torch.arange(tree.sizes.numel()).view_as(tree.sizes) % 5, torch.nan)
        outcome = torch.stack([parts["a"], 0.5 * parts["b"]]).nansum(0)
        never = parts["a"].isnan() & parts["b"].isnan()
        outcome = outcome.masked_fill(never, torch.nan)
        return Rewards(outcome=outcome, tokens=tokens if self.tokens else None, parts=parts)


@cache
def one_process() -> Trainer:
    return Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)


def segment(estimator: Any) -> StepSegmenter:
    """Exact tokens; for the one estimator that counts steps, steps that do not end where others part."""
    return WindowSegmenter(size=2) if isinstance(estimator, TreeGAE) else TokenPrefixSegmenter()


def draw_rollout(estimator: Any, seed: int, **options: Any) -> Rollout:
    """The rollout of two random groups."""
    module = GRPOModule(
        reward_model=Told(tokens="tokens" in estimator.reads),
        segmenter=segment(estimator),
        advantage_estimator=estimator,
        group_size=SIZE,
        updates=Updates(**options),
    )
    groups = [toy_group(random_group(2 * seed + n, size=SIZE, empty=False), uid=f"{seed}/{n}") for n in range(2)]
    module.components.setup(one_process(), None)  # type: ignore[arg-type]
    key = module.components.random_key("train")
    scored = module.components.score_groups(groups, key)
    return module.components.assign_credit(0, scored, scored.rewards, key)


@pytest.mark.filterwarnings("ignore:PassAtK")
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("seed", range(4))
def test_credit_and_batch_are_those_of_the_kept_completions_alone(seed: int, name: str) -> None:
    """λ, statistics and normalisers: of a group with these members, and no others."""
    estimator = components()[name].cls
    weighted = {} if name in ("GRPO", "LambdaGRPO") else {"lambda_power": 1.0}
    found = draw_rollout(estimator(**weighted), seed, keep_per_group=KEPT)
    assert all(len(kept) == KEPT for kept in found.kept)
    assert [len(r.outcome) for r in found.rewards] == [SIZE, SIZE]  # records have all
    groups, rewards = [], []
    for group, told, kept in zip(found.groups, found.rewards, found.kept, strict=True):
        at = torch.tensor(kept)
        groups.append(replace(group, completions=tuple(group.completions[m] for m in kept)))
        width = max(len(c) for c in groups[-1].completions)
        less = {n: p[at] for n, p in told.parts.items()}
        tokens = None if told.tokens is None else told.tokens[at, :width]
        rewards.append(replace(told, outcome=told.outcome[at], parts=less, tokens=tokens))
    trees = [segment(estimator()).segment(g) for g in groups]
    alone = estimator(**weighted).estimate_batch(rewards, trees, reduce=lambda x: x)
    for credit, other, kept in zip(found.credits, alone, found.kept, strict=True):
        width = other.advantages.shape[1]
        for value, wanted in zip(vars(credit).values(), vars(other).values(), strict=True):
            torch.testing.assert_close(value[torch.tensor(kept), :width], wanted, atol=1e-6, rtol=1e-5)
            dropped = [m for m in range(SIZE) if m not in kept]
            assert not value[dropped].any()
    batch = TrainBatch.from_groups(found.groups, found.credits, rows=found.rows)
    wanted_batch = TrainBatch.from_groups(groups, alone)
    for field, value in vars(wanted_batch).items():
        own = getattr(batch, field)
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(own, value, atol=1e-6, rtol=1e-5)
        else:
            assert own == value, field
    assert [found.takes_part(0, m) for m in range(SIZE)] == [m in found.kept[0] for m in range(SIZE)]


def test_keeping_all_changes_nothing() -> None:
    estimator = components()["LambdaGRPO"].cls
    one, other = draw_rollout(estimator(), 1), draw_rollout(estimator(), 1, keep_per_group=SIZE)
    assert one.rows == other.rows
    for a, b in zip(one.credits, other.credits, strict=True):
        assert torch.equal(a.advantages, b.advantages)
        assert torch.equal(a.weights, b.weights)


def test_a_recorded_tree_compares_with_the_credit_of_those_that_were_kept() -> None:
    """In a run of GRPO, what GRPO would add up for a step is what the run has added up."""
    rollout = draw_rollout(components()["GRPO"].cls(), 3, keep_per_group=KEPT)
    table = build_table(rollout).to_pandas()
    for _, rows in table.groupby("prompt_uid"):
        waiting = list(build_nodes(rows, KEPT))
        while waiting:
            step = waiting.pop()
            waiting += step.children
            assert step.grpo == pytest.approx(step.own, abs=1e-5)


def test_a_recorded_group_that_is_smaller_than_what_is_kept_now() -> None:
    table = build_table(draw_rollout(components()["GRPO"].cls(), 3)).to_pandas()
    for _, rows in table.groupby("prompt_uid"):
        assert build_nodes(rows, SIZE + 4) == build_nodes(rows)


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"updates\.keep_per_group is 1; it must be at least 2"):
        Updates(keep_per_group=1)
    with pytest.raises(ValueError, match=r"keep_per_group is 9, and a group has only 8 completions"):
        GRPOModule(reward_model=ExactMatch(), updates=Updates(keep_per_group=9))
    with pytest.raises(ValueError, match="ProcessGRPO does not look at outcomes"):
        GRPOModule(reward_model=ExactMatch(), advantage_estimator=ProcessGRPO(), updates=Updates(keep_per_group=2))
