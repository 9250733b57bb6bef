import math
import random

import pytest
import torch

from lgrpo_lightning.functional import close, equal_rewards, group_advantages, reaches
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


@pytest.mark.parametrize(
    "rewards",
    [
        [-1234567.0, -1234566.5, -1234560.25, -1234567.75, -1234566.0, -1234570.5],
        [1e19, -1e19, 5e18, 0.0],
        [3e38, -3e38, 3e38, -3e38],
        [3e38, 3e38, 3e38, 2.9e38],
        [1e-3, -1e-3, 2e-3, 0.0],
    ],
)
def test_any_size_of_rewards(rewards):
    rewards = torch.tensor(rewards)
    got = group_advantages(rewards[None])[0]
    assert got.dtype == torch.float32
    assert abs(float(got.sum())) < 1e-5
    assert got.any()
    torch.testing.assert_close(got, torch.tensor(naive.advantages(rewards.tolist())), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_sums_that_come_to_the_same_are_equal(seed):
    draw = random.Random(seed)
    for _ in range(200):
        parts = [round(draw.uniform(0, 10 ** draw.randint(0, 4)), 2) for _ in range(draw.randint(2, 5))]
        total = torch.tensor(parts).double().sum().float()
        whole = torch.tensor(math.fsum(parts))
        assert equal_rewards(torch.stack([total, whole])[None]).all()
        assert reaches(total, float(math.fsum(parts)))
        assert not group_advantages(torch.stack([total, whole])[None]).any()


def test_what_differs_is_not_equal():
    assert equal_rewards(torch.tensor([[1000.1 + 2000.2, 3000.3]])).all()
    assert not equal_rewards(torch.tensor([[-1234567.0, -1234566.75], [1e-6, 0.0], [1.0, 0.999999]])).any()
    assert reaches(torch.tensor([0.99999994, 0.999999, 1.5, NAN]), 1.0).tolist() == [True, False, True, False]
    assert close(torch.tensor(0.1 + 0.2 - 0.3), torch.tensor(0.0))


def test_refuses_an_unknown_scale():
    with pytest.raises(ValueError, match="possible are 'group' and 'none'"):
        group_advantages(torch.zeros(1, 2), scale="batch")
