"""Which groups take part in an update."""

from __future__ import annotations

import math

import pytest
import torch

from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.rollouts.selection import skip_if_unrewarded, trained_groups
from lgrpo_lightning.testing import toy_group, toy_tree
from lgrpo_lightning.types import Credit, Rewards, Rollout
from tests.training.several_ranks import together

NOTHING = Rewards(outcome=torch.full((2,), math.nan))


def rollout(*rewards: Rewards) -> Rollout:
    groups = tuple(toy_group([[5, 6], [7]], uid=str(n)) for n in range(len(rewards)))
    trees = tuple(map(toy_tree, groups))
    none = [torch.zeros(tree.sizes.shape) for tree in trees]
    credits = tuple(Credit(advantages=x, weights=x) for x in none)
    trained = (True,) * len(groups)
    return Rollout(index=0, groups=groups, trees=trees, rewards=rewards, credits=credits, trained=trained)


@pytest.mark.parametrize("judged", [(0,), (1,), (0, 1), ()])
def test_a_rollout_is_trained_where_any_rank_has_a_reward(judged: tuple[int, ...]) -> None:
    some = Rewards(outcome=torch.tensor([math.nan, 1.0]))

    def work(rank: int, ranks: Ranks) -> tuple[bool, ...]:
        return skip_if_unrewarded(rollout(NOTHING, some if rank in judged else NOTHING), ranks).trained

    assert together(2, work) == [(bool(judged),) * 2] * 2


@pytest.mark.parametrize("name", ["steps", "tokens"])
def test_process_rewards_are_rewards(name: str) -> None:
    values = {"steps": torch.tensor([1.0, 0.0]), "tokens": torch.tensor([[1.0, 0.0], [math.nan] * 2])}
    told = Rewards(outcome=NOTHING.outcome, **{name: values[name]})
    assert skip_if_unrewarded(rollout(NOTHING, told), Ranks()).trained == (True, True)
    assert skip_if_unrewarded(rollout(NOTHING, NOTHING), Ranks()).trained == (False, False)
    equal = Rewards(outcome=torch.ones(2), **{name: torch.ones_like(values[name])})
    assert trained_groups([told, equal, NOTHING], drop_equal=True) == (True, False, False)
    assert trained_groups([told, equal, NOTHING], drop_equal=False) == (True, True, True)
