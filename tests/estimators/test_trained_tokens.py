"""Every estimator with every segmenter, where some tokens are not trained, against the definitions as loops."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from lgrpo_lightning import GRPOModule
from lgrpo_lightning.contracts import RewardModel, StepSegmenter
from lgrpo_lightning.estimators import (
    GDPO,
    GRPO,
    GTPO,
    RLOO,
    TEMPO,
    BlendedGRPO,
    Distillation,
    EligibilityTraceGRPO,
    FocalGRPO,
    ImplicitPRM,
    LambdaGRPO,
    LearnableTokenPreference,
    MaxRL,
    PassAtK,
    ProcessGRPO,
    ReinforcePlusPlus,
    TreeAdv,
    TreeGAE,
)
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.registry.hookspecs import PROJECT
from lgrpo_lightning.registry.lookup import components
from lgrpo_lightning.training import Updates
from lgrpo_lightning.types import Credit, Group, Rewards
from tests.reference import naive
from tests.reference.naive_trained import SCENARIOS, Trained, trained_group

NAN = math.nan
SEGMENTERS = sorted(n for n, c in components().items() if c.kind == "segmenter" and c.package == PROJECT)
Rows = list[list[float]]


class Judge(RewardModel):
    """Rewards that differ, of every kind: of completions in two parts, of steps and of tokens."""

    def score(self, group: Group, tree: ProcessTree) -> Rewards:
        draw = random.Random(group.prompt.uid)
        parts = {n: torch.tensor([draw.choice([0.0, 0.5, 1.0, 1.0]) for _ in group.completions]) for n in "ab"}
        steps = torch.tensor([draw.choice([0.0, 0.25, 1.0, NAN]) for _ in tree.steps])
        tokens = torch.where(tree.set_sizes() > 0, torch.arange(tree.sizes.numel()).view_as(tree.sizes) % 5, NAN)
        return Rewards(
            outcome=parts["a"] + 0.5 * parts["b"],
            steps=steps,
            tokens=tokens,
            parts=parts,
            part_weights={"b": 0.5},
        )


class Batch:
    """Three groups as a run hands them to an estimator, and the definitions over each."""

    def __init__(self, seed: int, scenario: str, segmenter: StepSegmenter, *, tokens: bool) -> None:
        module = GRPOModule(reward_model=Judge(), segmenter=segmenter, updates=Updates(mask_truncated=True))
        self.groups = [trained_group(seed, scenario, uid=f"{seed}/{n}") for n in range(3)]
        self.trees = module.components.segment(self.groups, module.components.random_key("train"))
        self.rewards = module.reward_model.score_batch(self.groups, self.trees)
        if not tokens:
            self.rewards = [_without_tokens(r) for r in self.rewards]
        given = [Judge().score(g, t) for g, t in zip(self.groups, self.trees, strict=True)]
        self.trained = [
            Trained(g, _unmasked(t), r.outcome.tolist(), truncated=True)
            for g, t, r in zip(self.groups, self.trees, given, strict=True)
        ]
        self.given = given

    def over_batch(
        self, counted: Callable[[Trained, Sequence[float]], list[float]], values: Rows
    ) -> tuple[float, float]:
        """Mean and deviation of what is counted of all groups."""
        pool = [v for t, row in zip(self.trained, values, strict=True) for v in counted(t, row) if not math.isnan(v)]
        return (naive.mean(pool), naive.deviation(pool)) if pool else (0.0, 0.0)


def _without_tokens(r: Rewards) -> Rewards:
    return Rewards(outcome=r.outcome, steps=r.steps, parts=r.parts, part_weights=r.part_weights)


def _unmasked(tree: ProcessTree) -> ProcessTree:
    return tree.masked(torch.ones_like(tree.sizes, dtype=torch.bool))


# ---------------------------------------------------------------------------------- advantages of a batch, by hand


def each(formula: Callable[[Trained], Rows]) -> Callable[[Batch], list[Rows]]:
    return lambda batch: [formula(t) for t in batch.trained]


def reinforce(batch: Batch) -> list[Rows]:
    values = [t.rewards for t in batch.trained]
    mean, std = batch.over_batch(lambda t, row: [v for i, v in enumerate(row) for _ in range(t.count(i))], values)
    return [
        t.whole([0.0 if math.isnan(v) else (v - mean) / (std + 1e-4) for v in row])
        for t, row in zip(batch.trained, values, strict=True)
    ]


def gdpo(batch: Batch) -> list[Rows]:
    sums = []
    for t, given in zip(batch.trained, batch.given, strict=True):
        parts = [
            [NAN if math.isnan(o) else v for v, o in zip(given.parts[n].tolist(), t.rewards, strict=True)] for n in "ab"
        ]
        a, b = (naive.advantages(part) for part in parts)
        sums.append([NAN if math.isnan(o) else x + 0.5 * y for x, y, o in zip(a, b, t.rewards, strict=True)])
    _, std = batch.over_batch(lambda t, row: list(row), sums)
    return [
        t.whole([0.0 if math.isnan(s) else s / (std + 1e-4) for s in row])
        for t, row in zip(batch.trained, sums, strict=True)
    ]


def process(coefficient: float, outcome: bool) -> Callable[[Batch], list[Rows]]:
    def both(batch: Batch) -> list[Rows]:
        out = []
        for t, given in zip(batch.trained, batch.given, strict=True):
            told = t.process(given.steps.tolist())  # type: ignore[union-attr]
            out.append(t.rows(lambda i, k, told=told, t=t: coefficient * told[i][k] + outcome * t.own[i]))
        return out

    return both


def distillation(batch: Batch) -> list[Rows]:
    return [
        t.rows(lambda i, k, t=t, given=given: float(given.tokens[i, k]) + t.own[i])  # type: ignore[index]
        for t, given in zip(batch.trained, batch.given, strict=True)
    ]


CASES: dict[str, tuple[Any, Callable[[Batch], list[Rows]]]] = {
    "GRPO": (GRPO(), each(Trained.grpo)),
    "LambdaGRPO": (LambdaGRPO(), each(Trained.grpo)),
    "RLOO": (RLOO(lambda_power=1), each(Trained.rloo)),
    "MaxRL": (MaxRL(), each(Trained.max_rl)),
    "PassAtK": (PassAtK(k=2), each(Trained.pass_at_k)),
    "ReinforcePlusPlus": (ReinforcePlusPlus(), reinforce),
    "GDPO": (GDPO(lambda_power=0.5), gdpo),
    "ImplicitPRM": (ImplicitPRM(lambda_power=1), each(lambda t: t.tree_adv(1))),
    "TreeAdv": (TreeAdv(leaf_power=0.5), each(lambda t: t.tree_adv(0.5))),
    "GTPO": (GTPO(), each(Trained.gtpo)),
    "FocalGRPO": (FocalGRPO(), each(Trained.focal)),
    "TreeGAE": (TreeGAE(gae_lambda=0.5), each(lambda t: t.gae(0.5))),
    "TEMPO": (TEMPO(), each(Trained.tempo)),
    "EligibilityTraceGRPO": (EligibilityTraceGRPO(trace_decay=0.5), each(lambda t: t.traces(0.5))),
    "LearnableTokenPreference": (
        LearnableTokenPreference(preference_lr=0, lambda_power=1),
        each(Trained.grpo),
    ),
    "ProcessGRPO": (ProcessGRPO(lambda_power=1), process(1.0, False)),
    "BlendedGRPO": (BlendedGRPO(coefficient=0.5), process(0.5, True)),
    "Distillation": (Distillation(), distillation),
}


def test_every_estimator_is_here() -> None:
    own = {n for n, c in components().items() if c.kind == "advantage_estimator" and c.package == PROJECT}
    assert own == set(CASES)


def check(seed: int, scenario: str, segmenter: str, name: str) -> None:
    """Advantages and weights of every trained token; 0 for the others."""
    estimator, formula = CASES[name]
    batch = Batch(seed, scenario, components()[segmenter].cls(), tokens=name == "Distillation")
    preference = 0.0
    if isinstance(estimator, LearnableTokenPreference):
        estimator.preference = preference = 1.5
    credits = estimator.estimate_batch(batch.rewards, batch.trees, reduce=lambda x: x)
    for trained, credit, wanted in zip(batch.trained, credits, formula(batch), strict=True):
        factors = trained.preferences(preference) if preference else [1.0] * len(wanted)
        weights = trained.rows(lambda i, t: factors[i] / len(trained.process_set(i, t)) ** estimator.power)  # noqa: B023
        _compare(credit, trained, wanted, weights)


def _compare(credit: Credit, trained: Trained, advantages: Rows, weights: Rows) -> None:
    mask = torch.nn.utils.rnn.pad_sequence([torch.tensor(m) for m in trained.mask], batch_first=True)
    for found, wanted in ((credit.advantages, advantages), (credit.weights, weights)):
        rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(w, dtype=torch.float32) for w in wanted], batch_first=True)
        torch.testing.assert_close(found, torch.where(mask, rows, 0.0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", CASES)
def test_estimators_run_over_trained_tokens(name: str, scenario: str) -> None:
    for seed, segmenter in enumerate(("TokenPrefixSegmenter", SEGMENTERS[sorted(CASES).index(name) % len(SEGMENTERS)])):
        check(seed, scenario, segmenter, name)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("segmenter", SEGMENTERS)
@pytest.mark.parametrize("name", CASES)
def test_estimators_run_over_trained_tokens_of_many_groups(name: str, segmenter: str, scenario: str) -> None:
    for seed in range(20, 60):
        check(seed, scenario, segmenter, name)


@pytest.mark.parametrize("segmenter", SEGMENTERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_set_sizes_count_members_that_train_the_token(scenario: str, segmenter: str) -> None:
    for seed in range(3):
        batch = Batch(seed, scenario, components()[segmenter].cls(), tokens=False)
        for tree, trained in zip(batch.trees, batch.trained, strict=True):
            wanted = trained.rows(lambda i, t: len(trained.process_set(i, t)))  # noqa: B023
            assert [row[: len(w)] for row, w in zip(tree.set_sizes().tolist(), wanted, strict=True)] == wanted
            assert torch.equal(tree.set_sizes() > 0, tree.step_ids >= 0)
