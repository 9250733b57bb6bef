"""The paper's toy: what each of the sixteen leaves pays."""

from itertools import product

import pytest
import torch

from lgrpo_lightning.data import BinaryTreeTask
from lgrpo_lightning.rewards import BinaryTreeReward
from lgrpo_lightning.testing import check_reward_model, toy_group, toy_tree

LEAVES = ["".join(path) for path in product("LR", repeat=4)]


@pytest.mark.parametrize("penalty", [-0.5, -1.0, -1.5])
@pytest.mark.parametrize(("shared", "neighbours"), [(1, 7), (2, 3)])
def test_every_leaf(shared: int, neighbours: int, penalty: float) -> None:
    group = toy_group(LEAVES, columns={"target": "LRRL"})
    rewards = BinaryTreeReward(shared=shared, penalty=penalty).score(group, toy_tree(group))
    paid = dict(zip(LEAVES, rewards.outcome.tolist(), strict=True))
    assert paid.pop("LRRL") == 1.0
    near = {leaf: r for leaf, r in paid.items() if leaf[:shared] == "LRRL"[:shared]}
    assert len(near) == neighbours
    assert set(near.values()) == {penalty}
    assert {r for leaf, r in paid.items() if leaf not in near} == {torch.tensor(0.7).item()}
    assert rewards.metrics == {"rewards/BinaryTreeReward/target": 1 / 16}


def test_the_contract() -> None:
    group = toy_group(LEAVES, columns={"target": "RLLR"})
    check_reward_model(BinaryTreeReward(), group)


@pytest.mark.parametrize("target", [None, "L", 7])
def test_a_target_that_is_too_short(target: object) -> None:
    with pytest.raises(ValueError, match=r"column 'target' is .*; it must be a text of more than shared=1 letters"):
        BinaryTreeReward().check_row({"prompt": "^", "target": target})


def test_impossible_arguments() -> None:
    with pytest.raises(ValueError, match="shared is 0; it must be at least 1"):
        BinaryTreeReward(shared=0)
    for target in ("", "LRX"):
        with pytest.raises(ValueError, match="it must be a path of L and R, such as 'LRRL'"):
            BinaryTreeTask(target=target)
