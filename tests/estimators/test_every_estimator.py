"""What all estimators have in common: λ weights, order, padding, equal rewards, finite numbers."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import pad

from lgrpo_lightning import estimators
from lgrpo_lightning.estimators import (
    GDPO,
    GTPO,
    RLOO,
    EligibilityTraceGRPO,
    FocalGRPO,
    LambdaGRPO,
    LearnableTokenPreference,
    MaxRL,
    PassAtK,
    ReinforcePlusPlus,
    SignedPower,
    TreeAdv,
    TreeGAE,
)
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.testing import check_estimator
from lgrpo_lightning.types import Rewards
from tests.reference.naive_estimators import Batch

pytestmark = pytest.mark.filterwarnings("ignore:PassAtK")  # of groups that are no larger than k

KINDS: list[Any] = [
    RLOO,
    ReinforcePlusPlus,
    GDPO,
    PassAtK,
    MaxRL,
    TreeAdv,
    TreeGAE,
    GTPO,
    FocalGRPO,
    EligibilityTraceGRPO,
    LearnableTokenPreference,
]
VARIANTS: list[Any] = [
    *[kind() for kind in KINDS],
    ReinforcePlusPlus(baseline=True),
    ReinforcePlusPlus(baseline=True, normalize_over="completions"),
    PassAtK(k=2, success_threshold=0.5),
    TreeAdv(scale="batch", leaf_power=0.5),
    GTPO(scale="none", conflict_factor=1.5, lambda_power=1.0),
    EligibilityTraceGRPO(min_advantage=-0.1, trace_decay=0.5),
    EligibilityTraceGRPO(trace_decay=0.0),
    FocalGRPO(focal_gamma=0.5, success_threshold=0.5),
    TreeGAE(gae_lambda=0.0, scale="batch"),
]


@pytest.mark.parametrize("estimator", VARIANTS)
def test_the_contract(estimator: Any) -> None:
    check_estimator(estimator)


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_lambda_weights_are_one_setting_of_all(seed: int, kind: Any, power: float) -> None:
    batch = Batch(seed)
    plain, weighted = (batch.credits(kind(lambda_power=p)) for p in (0.0, power))
    for one, other, tree in zip(plain, weighted, batch.trees, strict=True):
        assert torch.equal(one.advantages, other.advantages)
        torch.testing.assert_close(other.weights, one.weights * tree.weights(power))


@pytest.mark.parametrize("kind", [*KINDS, LambdaGRPO])
@pytest.mark.parametrize("seed", range(6))
def test_powers_by_sign_are_those_of_a_loop(seed: int, kind: Any) -> None:
    """Blame where the members of a process set have negative advantages on the whole, at each of its tokens."""
    batch, powers = Batch(seed), SignedPower(blame=0.5, praise=2.0)
    name = "power" if kind is LambdaGRPO else "lambda_power"
    plain, weighted = (batch.credits(kind(**{name: p})) for p in (0.0, powers))
    signs = set()
    for one, other, tree in zip(plain, weighted, batch.trees, strict=True):
        assert torch.equal(one.advantages, other.advantages)
        sizes = tree.set_sizes()
        for step in tree.steps:
            for member, (start, end) in zip(step.members, step.spans, strict=True):
                for t in range(start, end):
                    if not tree.trained[member, t]:
                        continue
                    others = [min(a + t - start, b - 1) for a, b in step.spans]
                    mean = sum(float(one.advantages[m, at]) for m, at in zip(step.members, others, strict=True))
                    if abs(mean) > 1e-5 or mean == 0:
                        signs.add(mean < 0)
                        power = powers.blame if mean < 0 else powers.praise
                        expected = float(one.weights[member, t]) / int(sizes[member, t]) ** power
                        assert float(other.weights[member, t]) == pytest.approx(expected, rel=1e-5)
    assert signs == {True, False} or kind is not LambdaGRPO


@pytest.mark.parametrize("kind", KINDS)
def test_powers_that_make_no_sense(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: lambda_power is -1"):
        kind(lambda_power=-1)
    with pytest.raises(ValueError, match=rf"{kind.__name__}: lambda_power\.praise is -1"):
        kind(lambda_power=SignedPower(praise=-1))


@pytest.mark.parametrize("estimator", VARIANTS)
@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_completions_does_not_matter(seed: int, estimator: Any) -> None:
    batch = Batch(seed)
    flipped_rewards = [
        replace(r, outcome=r.outcome.flip(0), parts={n: p.flip(0) for n, p in r.parts.items()}) for r in batch.rewards
    ]
    flipped_trees = [ProcessTree.from_sequences(group[::-1]) for group in batch.groups]
    one = [estimator.estimate(r, t) for r, t in zip(batch.rewards, batch.trees, strict=True)]
    other = [estimator.estimate(r, t) for r, t in zip(flipped_rewards, flipped_trees, strict=True)]
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.advantages, b.advantages.flip(0), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(a.weights, b.weights.flip(0))


@pytest.mark.parametrize("estimator", VARIANTS)
@pytest.mark.parametrize("seed", range(6))
def test_padding_does_not_matter(seed: int, estimator: Any) -> None:
    batch = Batch(seed)
    for rewards, tree in zip(batch.rewards, batch.trees, strict=True):
        wider = ProcessTree(
            sizes=pad(tree.sizes, (0, 3), value=0),
            units=pad(tree.units, (0, 3), value=-1),
            num_nodes=tree.num_nodes,
            leaf_sizes=tree.leaf_sizes,
        )
        one, other = estimator.estimate(rewards, tree), estimator.estimate(rewards, wider)
        for name in ("advantages", "weights"):
            assert torch.equal(pad(getattr(one, name), (0, 3)), getattr(other, name))
        assert not other.advantages[wider.sizes == 0].any()


@pytest.mark.parametrize("value", [0.7, 0.0, 1.0, torch.nan])
@pytest.mark.parametrize("estimator", VARIANTS)
def test_a_batch_of_equal_rewards_gives_exactly_nothing(estimator: Any, value: float) -> None:
    trees = [ProcessTree.from_sequences(g) for g in ([[1, 2, 3], [1, 2], [4]], [[1]], [[1, 1], [1, 2]])]
    rewards = [
        Rewards(outcome=torch.full((len(t.sizes),), value), parts={"a": torch.full((len(t.sizes),), value)})
        for t in trees
    ]
    for credit in estimator.estimate_batch(rewards, trees, reduce=lambda x: x):
        assert not credit.advantages.any()


@pytest.mark.parametrize("estimator", VARIANTS)
def test_a_group_of_equal_rewards_among_others(estimator: Any) -> None:
    """Exactly nothing, but for normalisation over the batch, whose docstring says what is left."""
    batch = Batch(3)
    assert set(batch.outcomes[0]) == {0.7 * 1.5}
    credit = batch.credits(estimator)[0]
    left = isinstance(estimator, ReinforcePlusPlus) and (not estimator.baseline or estimator.normalize_over == "tokens")
    assert bool(credit.advantages.any()) == left
    assert credit.advantages.isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e15])
@pytest.mark.parametrize("estimator", VARIANTS)
def test_numbers_are_finite_whatever_the_rewards_are(estimator: Any, scale: float) -> None:
    batch = Batch(1)
    rewards = [
        replace(r, outcome=r.outcome * scale, parts={n: p * scale for n, p in r.parts.items()}) for r in batch.rewards
    ]
    for credit in estimator.estimate_batch(rewards, batch.trees, reduce=lambda x: x):
        assert credit.advantages.isfinite().all()
        assert credit.weights.isfinite().all()
        assert (credit.weights >= 0).all()


@pytest.mark.parametrize("estimator", [v for v in VARIANTS if not isinstance(v, MaxRL | PassAtK | FocalGRPO)])
@pytest.mark.parametrize("seed", [1, 2])
def test_rewards_far_from_0_are_told_apart_as_well(estimator: Any, seed: int) -> None:
    batch = Batch(seed)
    far = [
        replace(r, outcome=r.outcome - 1234568, parts={n: p - 1234568 for n, p in r.parts.items()})
        for r in batch.rewards
    ]
    near = estimator.estimate_batch(batch.rewards, batch.trees, reduce=lambda x: x)
    for one, other in zip(near, estimator.estimate_batch(far, batch.trees, reduce=lambda x: x), strict=True):
        torch.testing.assert_close(one.advantages, other.advantages, atol=1e-5, rtol=1e-5)


def test_arguments_of_one_name_have_one_default() -> None:
    """jsonargparse carries an option over where a flag changes the class: it must then mean the same."""
    seen: dict[str, Any] = {}
    for name in estimators.__all__:
        for argument, parameter in inspect.signature(getattr(estimators, name)).parameters.items():
            assert seen.setdefault(argument, parameter.default) == parameter.default, f"{name}.{argument}"
