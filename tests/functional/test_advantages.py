import math

import pytest
import torch

from lgrpo_lightning.functional import equal_rewards, group_advantages
from tests.reference import naive

NAN = math.nan


def test_by_hand():
    # mean 0.25, squares (0.0625 * 3 + 0.5625) / 3 = 0.25, deviation 0.5
    got = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), eps=0.5)
    assert got.tolist() == [[0.75, -0.25, -0.25, -0.25]]


@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize(
    "rewards",
    [
        [1.0, 0.0, 0.0, 1.0],
        [0.3, -2.0, 0.3, 7.5],
        [1.0, NAN, 0.0, NAN],
        [NAN] * 4,
        [2.0, NAN, NAN, NAN],
        [1.0],
        [],
    ],
)
def test_equals_the_definition(rewards, scale):
    got = group_advantages(torch.tensor([rewards, rewards]), scale=scale) if rewards else None
    for row in [] if got is None else got.tolist():
        assert row == pytest.approx(naive.advantages(rewards, scale=scale), abs=1e-6)


@pytest.mark.parametrize("value", [0.7, 0.1, 1e8, -3.3])
@pytest.mark.parametrize("scale", ["group", "none"])
def test_equal_rewards_give_exactly_zero(value, scale):
    rewards = torch.full((2, 8), value)
    rewards[1, 3] = NAN
    assert (group_advantages(rewards, scale=scale) == 0).all()
    assert equal_rewards(rewards).tolist() == [True, True]


def test_far_from_zero_and_order():
    rewards = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) + 100
    at = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(group_advantages(rewards)[:, at], group_advantages(rewards[:, at]), atol=1e-6)
    for row, got in zip(rewards, group_advantages(rewards), strict=True):
        assert got.tolist() == pytest.approx(naive.advantages(row.double().tolist()), abs=2e-4)


def test_refuses_an_unknown_scale():
    with pytest.raises(ValueError, match="possible are 'group' and 'none'"):
        group_advantages(torch.zeros(1, 2), scale="batch")
