"""TreeGAE: its limits, and its bias over all groups of a small task. ``test_trained_tokens`` has the loop."""

from __future__ import annotations

import itertools

import pytest
import torch

from lgrpo_lightning.estimators import RLOO, TreeGAE
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Rewards
from tests.reference.naive_estimators import Batch

PATHS = list(itertools.product((0, 1), repeat=2))
"""Completions of two turns, each of one token."""


def tree_of(group: tuple[tuple[int, int], ...]) -> ProcessTree:
    """Steps are turns, as ``TurnSegmenter`` makes them."""
    return ProcessTree.from_steps(group, [[0, 1]] * len(group))


def test_by_hand() -> None:
    """Three share the first turn, two of them the second; rewards 3, 1, -1 and, apart, -3; Λ = 1/2.

    Completion 0: others are worth -1 at the start, 0 after turn 1, 1 after turn 2: δ = 1, 1, 2, A = 2, 2, 2.
    Completion 2: 1/3 at the start, 2 after turn 1, and so after turn 2, which is its own: δ = 5/3, 0, -3.
    """
    tree = ProcessTree.from_steps([["a", "b", "c"], ["a", "b", "d"], ["a", "e", "f"], ["g"]], [[0, 1, 2]] * 3 + [[0]])
    rewards = Rewards(outcome=torch.tensor([3.0, 1.0, -1.0, -3.0]))
    found = TreeGAE(gae_lambda=0.5, scale="none").estimate(rewards, tree).advantages
    assert found[0].tolist() == [2.0, 2.0, 2.0]
    assert found[2].tolist() == pytest.approx([5 / 3 - 3 / 4, -3 / 2, -3.0])
    assert found[3].tolist() == [-4.0, 0.0, 0.0]


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_what_an_environment_says_is_a_state_and_no_step(decay: float) -> None:
    """The middle token is the environment's: its answers "b" and "c" lead to two states, and take no power of Λ."""
    group = [["a", "b", "x"], ["a", "b", "y"], ["a", "c", "z"]]
    mask = torch.tensor([[True, False, True]] * 3)
    tree = ProcessTree.from_steps(group, [[0, 1, 2]] * 3).masked(mask)
    found = TreeGAE(gae_lambda=decay, scale="none").estimate(Rewards(outcome=torch.tensor([2.0, 0.0, 1.0])), tree)
    assert found.advantages[0].tolist() == [-0.5 + decay * 2.0, 0.0, 2.0]  # -1/2 → -1 after "b" → 1
    assert found.advantages[2].tolist() == [decay * 0.0, 0.0, 0.0]  # 0, 0 (alone with "c"), 0


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_a_step_of_which_part_is_trained_is_one(decay: float) -> None:
    """A turn with a tool's output in it, of several tokens."""
    steps = [[[1, 2, 3], [4, 5]], [[1, 2, 3], [6, 7]], [[8, 9, 9], [4, 5]]]
    mask = torch.tensor([[True, False, True, False, True]] * 3)
    tree = ProcessTree.from_steps([[tuple(s) for s in own] for own in steps], [[0, 0, 0, 1, 1]] * 3)
    rewards, estimator = Rewards(outcome=torch.tensor([2.0, 0.0, 1.0])), TreeGAE(gae_lambda=decay, scale="none")
    whole, part = (estimator.estimate(rewards, t).advantages for t in (tree, tree.masked(mask)))
    assert part.tolist() == (whole * mask).tolist()
    assert part[0].tolist() == [-0.5 + decay * 2.0, 0.0, -0.5 + decay * 2.0, 0.0, 2.0]


@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
def test_single_turns_are_rloo(decay: float) -> None:
    for seed in range(10):
        batch = Batch(seed)
        for rewards, group in zip(batch.rewards, batch.groups, strict=True):
            tree = ProcessTree.from_steps([[tuple(y)] for y in group], [[0] * len(y) for y in group])
            one, other = (e.estimate(rewards, tree) for e in (TreeGAE(gae_lambda=decay, scale="none"), RLOO()))
            torch.testing.assert_close(one.advantages, other.advantages, atol=1e-6, rtol=1e-5)


def expected_gradient(estimator: TreeGAE, logits: torch.Tensor, reward: dict[tuple[int, int], float]) -> torch.Tensor:
    """E[Σ A ∇log π / G] over all groups of three."""
    size, total = 3, torch.zeros_like(logits)
    for group in itertools.product(PATHS, repeat=size):
        at = logits.clone().requires_grad_()
        first, second = at[0].log_softmax(-1), at[1:].log_softmax(-1)
        logprobs = torch.stack([torch.stack([first[a], second[a, b]]) for a, b in group])
        rewards = Rewards(outcome=torch.tensor([reward[path] for path in group]))
        advantages = estimator.estimate(rewards, tree_of(group)).advantages.double()
        (gradient,) = torch.autograd.grad((advantages * logprobs).sum() / size, at)
        total += logprobs.detach().sum().exp() * gradient
    return total


def test_the_gradient_has_no_bias() -> None:
    """With Λ = 1 it is that of the expected reward; with Λ = 0 it is not, since lone states borrow their value."""
    logits = torch.tensor([[0.2, -0.4], [0.5, 0.1], [-0.3, 0.6]], dtype=torch.double)
    reward = {(0, 0): 1.0, (0, 1): -0.5, (1, 0): 0.25, (1, 1): 2.0}
    at = logits.clone().requires_grad_()
    probabilities = at[0].softmax(-1)[:, None] * at[1:].softmax(-1)
    (exact,) = torch.autograd.grad(sum(probabilities[p] * r for p, r in reward.items()), at)  # type: ignore[type-var]
    torch.testing.assert_close(expected_gradient(TreeGAE(1.0, scale="none"), logits, reward), exact, atol=1e-6, rtol=0)
    assert not torch.allclose(expected_gradient(TreeGAE(0.0, scale="none"), logits, reward), exact, atol=1e-3)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_refused(value: float) -> None:
    with pytest.raises(ValueError, match="TreeGAE: gae_lambda is"):
        TreeGAE(gae_lambda=value)
