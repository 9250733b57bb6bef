"""A segmenter's and an estimator's answers are checked before anything is trained on them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lgrpo_lightning.estimators import GRPO
from lgrpo_lightning.rollouts.checks import ContractError, check_credits, check_trees
from lgrpo_lightning.rollouts.selection import trained_groups
from lgrpo_lightning.segmenters import TokenPrefixSegmenter
from lgrpo_lightning.testing import toy_group, toy_tree
from lgrpo_lightning.types import Credit, Rewards

GROUPS = [toy_group(["abc", "ab"]), toy_group(["a", ""])]


def credits(change: Callable[[Tensor], Tensor] = lambda x: x) -> list[Credit]:
    full, second = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]), torch.tensor([[1.0], [0.0]])
    return [Credit(advantages=change(full), weights=full), Credit(advantages=second, weights=second)]


def test_right_answers_pass() -> None:
    check_credits(GRPO(), GROUPS, credits())
    check_trees(TokenPrefixSegmenter(), GROUPS, [toy_tree(g) for g in GROUPS])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x[:, :1], r"'GRPO', prompt '.*': advantages has shape \[2, 1\]; it must be \[2, 3\]"),
        (lambda x: x[:, 0], r"shape \[2\]; it must be \[2, 3\]"),
        (lambda x: torch.cat([x, x], 1), r"shape \[2, 6\]"),
        (lambda x: x.tolist(), "advantages is a list; it must be a tensor"),
        (lambda x: x / 0, "advantages has numbers that are not finite"),
        (lambda x: x + 1, "advantages is not 0 on padding"),
        (lambda x: x.double(), "advantages is torch.float64; it must be float32"),
    ],
)
def test_wrong_credit(change: Callable[[Tensor], Tensor], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        check_credits(GRPO(), GROUPS, credits(change))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (credits()[:1], "returned 1 results for 2 groups"),
        (None, "returned a NoneType for 2 groups"),
        ([torch.ones(2, 3), credits()[1]], "got a Tensor; estimate returns a Credit"),
    ],
)
def test_no_credit(answer: Sequence[Credit], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        check_credits(GRPO(), GROUPS, answer)


def test_wrong_trees() -> None:
    with pytest.raises(ContractError, match=r"'TokenPrefixSegmenter', prompt .* got a list; segment returns"):
        check_trees(TokenPrefixSegmenter(), GROUPS, [[1], [2]])  # type: ignore[list-item]
    with pytest.raises(ContractError, match=r"set_sizes of the tree has shape \[2, 3\]; it must be \[2, 1\]"):
        check_trees(TokenPrefixSegmenter(), GROUPS[1:], [toy_tree(GROUPS[0])])


def test_groups_of_equal_rewards() -> None:
    outcomes = [torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])]
    rewards = [Rewards(outcome=o) for o in outcomes]
    assert trained_groups(rewards, drop_equal=True) == (False, True)
    assert trained_groups(rewards, drop_equal=False) == (True, True)
    rewards = [replace(r, steps=torch.tensor([0.0, 1.0])) for r in rewards]
    assert trained_groups(rewards, drop_equal=True) == (True, True)
