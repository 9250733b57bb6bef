"""Estimators of process rewards against loops from their definitions, alone and with λ weights."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from lgrpo_lightning.estimators import GRPO, TEMPO, BlendedGRPO, ImplicitPRM, LambdaGRPO, ProcessGRPO
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.testing import check_estimator
from lgrpo_lightning.types import Rewards
from tests.functional.test_facts import Case, assert_same
from tests.reference import naive, naive_process
from tests.reference.groups import matrix, random_group

SEEDS = range(40)


class Group:
    """A random group with outcomes and step rewards, some of which do not apply."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.sequences = random_group(seed, empty=False)
        if seed % 2:
            self.tree = ProcessTree.from_sequences(self.sequences)
        else:  # steps of two tokens
            keys = [[tuple(y[t : t + 2]) for t in range(0, len(y), 2)] for y in self.sequences]
            self.tree = ProcessTree.from_steps(keys, [[t // 2 for t in range(len(y))] for y in self.sequences])
        self.outcome = [rng.choice([0.0, 0.5, 1.0, 1.0, math.nan]) for _ in self.sequences]
        self.steps = [rng.choice([0.0, 0.25, 1.0, math.nan]) for _ in self.tree.steps]
        self.rewards = Rewards(outcome=torch.tensor(self.outcome), steps=torch.tensor(self.steps))


def close(found: torch.Tensor, rows: list[list[float]]) -> None:
    torch.testing.assert_close(found, matrix(rows, torch.float32)[:, : found.shape[1]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("statistics", ["completions", "nodes"])
@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize("seed", SEEDS)
def test_process_grpo(seed: int, scale: str, statistics: str) -> None:
    group = Group(seed)
    credit = ProcessGRPO(scale=scale, statistics=statistics).estimate(group.rewards, group.tree)  # type: ignore[arg-type]
    close(
        credit.advantages,
        naive_process.process_advantages(group.steps, group.tree, scale=scale == "group", nodes=statistics == "nodes"),
    )
    assert torch.equal(credit.weights, (group.tree.set_sizes() > 0).float())


@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_minimum_to_come(seed: int, scale: Any) -> None:
    group = Group(seed)
    wanted = naive_process.minimum_advantages(group.steps, group.tree, scale=scale == "group")
    close(ProcessGRPO(scale=scale, aggregate="min").estimate(group.rewards, group.tree).advantages, wanted)
    both = BlendedGRPO(scale=scale, aggregate="min", coefficient=0.3).estimate(group.rewards, group.tree).advantages
    plain = naive_process.outcome_advantages(group.outcome, scale=scale == "group")
    close(both, [[a + 0.3 * p for p in row] for a, row in zip(plain, wanted, strict=True)])


@pytest.mark.parametrize("seed", SEEDS)
def test_blended_grpo(seed: int) -> None:
    group = Group(seed)
    found = BlendedGRPO(coefficient=0.3).estimate(group.rewards, group.tree).advantages
    process = naive_process.process_advantages(group.steps, group.tree, scale=True, nodes=False)
    plain = naive_process.outcome_advantages(group.outcome, scale=True)
    close(found, [[a + 0.3 * p for p in row] for a, row in zip(plain, process, strict=True)])


@pytest.mark.parametrize("seed", SEEDS)
def test_tempo(seed: int) -> None:
    group = Group(2 * seed + 1)  # exact tokens
    close(
        TEMPO().estimate(group.rewards, group.tree).advantages,
        naive_process.tempo(group.outcome, group.sequences),
    )


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("kind", [ProcessGRPO, BlendedGRPO, ImplicitPRM, TEMPO])
@pytest.mark.parametrize("seed", range(10))
def test_lambda_weights_are_one_setting_of_all(seed: int, kind: Any, power: float) -> None:
    group = Group(seed)
    plain, weighted = (kind(lambda_power=p).estimate(group.rewards, group.tree) for p in (0.0, power))
    assert torch.equal(plain.advantages, weighted.advantages)
    assert torch.equal(weighted.weights, group.tree.weights(power))


@pytest.mark.parametrize("estimator", [ImplicitPRM(), TEMPO(), ImplicitPRM(scale="batch", lambda_power=1.0)])
def test_the_contract(estimator: GRPO) -> None:
    check_estimator(estimator)


# ------------------------------------------------------------------------------------------------ the theorem


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(60))
def test_the_implicit_prm_is_grpo(seed: int, power: float) -> None:
    """The theorem through the public components: loss and gradient, and so with λ weights."""
    case = Case(seed)
    one, other = (case.credit(made) for made in (LambdaGRPO(power=power), ImplicitPRM(lambda_power=power)))
    assert_same(
        case.with_gradient(case.loss(one.advantages, one.weights)),
        case.with_gradient(case.loss(other.advantages, other.weights)),
        1e-5,
    )


def test_it_is_the_step_advantage_of_the_definition() -> None:
    for seed in range(60):
        case = Case(seed)
        if len(case.group) > 1:
            found = case.credit(ImplicitPRM()).advantages.double()
            wanted = matrix(naive.step_advantages(case.rewards.double().tolist(), case.group), torch.double)
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_where_the_theorem_does_not_hold() -> None:
    """Several updates with clipping: members of a set have advantages of both signs, their mean has one."""
    differs = 0
    for seed in range(60):
        case = Case(seed, size=5)
        a, b = (case.credit(kind()).advantages for kind in (GRPO, ImplicitPRM))
        differs += abs((case.loss(a, on_policy=False) - case.loss(b, on_policy=False)).item()) > 1e-3
    assert differs > 10


# ------------------------------------------------------------------------------------------------ edges


def test_three_steps_by_hand() -> None:
    """Two completions, three steps: a (shared) pays 1, b pays 0, c pays 1; one token each.

    R = 1, 0, 1, 1: mean 3/4, deviation 1/2. Tokens of y1: (0.25 - 0.75)/0.5 = -1 and -1.5; of y2: 1 and 0.5.
    """
    tree = ProcessTree.from_steps([["a", "b"], ["a", "c"]], [[0, 1], [0, 1]])
    rewards = Rewards(outcome=torch.zeros(2), steps=torch.tensor([1.0, 0.0, 1.0]))
    found = ProcessGRPO(eps=1e-9).estimate(rewards, tree).advantages
    torch.testing.assert_close(found, torch.tensor([[-1.0, -1.5], [1.0, 0.5]]))
    once = ProcessGRPO(scale="none", statistics="nodes").estimate(rewards, tree).advantages
    torch.testing.assert_close(once, torch.tensor([[1 / 3 - 2 / 3, -2 / 3], [2 / 3, 1 / 3]]))


def test_the_minimum_by_hand() -> None:
    """Steps 1, 0, 1 against 1, 1, 0: one bad step each, and later is worse.

    Minima to come 0, 0, 1 and 0, 0, 0: their mean is 1/6. The sums to come of the first are 0, -2/3, 1/3.
    """
    tree = ProcessTree.from_steps([["a", "b", "c"], ["d", "e", "f"]], [[0, 1, 1, 2], [0, 1, 2]])
    rewards = Rewards(outcome=torch.zeros(2), steps=torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.0]))
    found = ProcessGRPO(scale="none", aggregate="min").estimate(rewards, tree).advantages
    rest = -1 / 6
    torch.testing.assert_close(found, torch.tensor([[rest, rest, rest, 5 / 6], [rest, rest, rest, 0.0]]))
    none = Rewards(outcome=torch.zeros(2), steps=torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
    assert not ProcessGRPO(aggregate="min").estimate(none, tree).advantages.any()  # all minima are 0


def test_the_minimum_over_steps_and_tokens() -> None:
    """Step rewards 1 and 0, and -2 for the first token of the second completion: minima 1, -2, 0."""
    tree = ProcessTree.from_sequences([[1, 2], [3, 4]])
    tokens = torch.tensor([[math.nan, math.nan], [-2.0, math.nan]])
    rewards = Rewards(outcome=torch.zeros(2), steps=torch.tensor([1.0, 0.0]), tokens=tokens)
    found = ProcessGRPO(scale="none", aggregate="min").estimate(rewards, tree).advantages
    torch.testing.assert_close(found, torch.tensor([[4 / 3, 4 / 3], [-5 / 3, 1 / 3]]))


def test_rewards_of_tokens_are_in_the_statistics_of_nodes() -> None:
    """The steps above and 2 for a token: the mean is 1."""
    tree = ProcessTree.from_steps([["a", "b"], ["a", "c"]], [[0, 1], [0, 1]])
    tokens = torch.tensor([[2.0, math.nan], [math.nan, math.nan]])
    rewards = Rewards(outcome=torch.zeros(2), steps=torch.tensor([1.0, 0.0, 1.0]), tokens=tokens)
    found = ProcessGRPO(scale="none", statistics="nodes").estimate(rewards, tree).advantages
    torch.testing.assert_close(found, torch.tensor([[0.0, -1.0], [0.0, 0.0]]))


def test_equal_process_rewards_give_exactly_nothing() -> None:
    tree = ProcessTree.from_sequences([[1, 2], [1, 3], [4]])
    for value in (0.7, math.nan):
        rewards = Rewards(outcome=torch.zeros(3), steps=torch.full((len(tree.steps),), value))
        for aggregate in ("sum", "min"):
            assert not ProcessGRPO(aggregate=aggregate).estimate(rewards, tree).advantages.any()  # type: ignore[arg-type]


def test_rewards_of_tokens_are_steps_of_one_token() -> None:
    tree = ProcessTree.from_sequences([[1, 2], [3]])
    tokens = torch.tensor([[1.0, torch.nan], [0.0, torch.nan]])
    found = ProcessGRPO(scale="none").estimate(Rewards(outcome=torch.zeros(2), tokens=tokens), tree)
    assert found.advantages.tolist() == [[0.5, 0.0], [-0.5, 0.0]]


def test_the_batch_scales() -> None:
    groups = [Group(seed) for seed in (2, 4, 6)]
    rewards, trees = [g.rewards for g in groups], [g.tree for g in groups]
    credits = ProcessGRPO(scale="batch").estimate_batch(rewards, trees, reduce=lambda x: x)
    pool = [g.steps[s] for g in groups for i in range(len(g.sequences)) for s, _, _ in naive_process.path(g.tree, i)]
    _, std = naive_process.mean_std(pool)
    for group, credit in zip(groups, credits, strict=True):
        rows = naive_process.process_advantages(group.steps, group.tree, scale=False, nodes=False)
        close(credit.advantages, [[v / (std + 1e-4) for v in row] for row in rows])


def test_it_needs_process_rewards() -> None:
    tree = ProcessTree.from_sequences([[1], [2]])
    with pytest.raises(ValueError, match="ProcessGRPO reads process rewards, but no reward model gives any"):
        ProcessGRPO().estimate(Rewards(outcome=torch.zeros(2)), tree)
    with pytest.raises(ValueError, match="statistics is 'tokens'; it must be 'completions' or 'nodes'"):
        ProcessGRPO(statistics="tokens")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="BlendedGRPO: aggregate is 'max'; it must be 'sum' or 'min'"):
        BlendedGRPO(aggregate="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="statistics is 'nodes' and aggregate 'min'"):
        ProcessGRPO(statistics="nodes", aggregate="min")


@pytest.mark.parametrize("kind", [ProcessGRPO, BlendedGRPO, ImplicitPRM, TEMPO])
def test_powers_that_make_no_sense(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: lambda_power is -1"):
        kind(lambda_power=-1)
