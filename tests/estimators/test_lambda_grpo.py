import pytest
import torch

from lgrpo_lightning.contracts import Rewards
from lgrpo_lightning.estimators import GRPO, LambdaGRPO, SignedPower
from lgrpo_lightning.process_tree import ProcessTree

TREE = ProcessTree.from_sequences([[1, 2, 3], [1, 2], [1, 4], [5]])
REWARDS = Rewards(outcome=torch.tensor([1.0, 0.0, 2.0, 0.5]))


def test_power_0_is_grpo_and_1_the_default() -> None:
    for one, other in ((LambdaGRPO(power=0), GRPO()), (LambdaGRPO(power=1), LambdaGRPO())):
        a, b = one.estimate(REWARDS, TREE), other.estimate(REWARDS, TREE)
        assert torch.equal(a.weights, b.weights)
        assert torch.equal(a.advantages, b.advantages)


@pytest.mark.parametrize("power", [0.25, 0.5, 1.5])
def test_against_a_loop(power: float) -> None:
    weights = LambdaGRPO(power=power).estimate(REWARDS, TREE).weights
    shared = [[3, 2, 1], [3, 2], [3, 1], [1]]
    for row, sizes in enumerate(shared):
        expected = [size**-power for size in sizes]
        assert weights[row, : len(sizes)].tolist() == pytest.approx(expected, abs=1e-6)
        assert not weights[row, len(sizes) :].any()


@pytest.mark.parametrize("blame", [1.0, 0.5])
def test_blame_alone(blame: float) -> None:
    """By hand: the mean reward is 0.875; the sets at the first token have means 1 and 0.5, then 0.5, 2 and 1."""
    weights = LambdaGRPO(power=SignedPower(blame=blame)).estimate(REWARDS, TREE).weights
    both = 2.0**-blame
    expected = [[1.0, both, 1.0], [1.0, both, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    torch.testing.assert_close(weights, torch.tensor(expected))
    mirror = LambdaGRPO(power=SignedPower(blame=0.0, praise=1.0)).estimate(REWARDS, TREE).weights
    torch.testing.assert_close(
        mirror, torch.tensor([[1 / 3, 1.0, 1.0], [1 / 3, 1.0, 0.0], [1 / 3, 1.0, 0.0], [1.0, 0.0, 0.0]])
    )


def test_a_group_that_is_neither_good_nor_bad_is_not_blamed_for_rounding() -> None:
    rewards = Rewards(outcome=torch.tensor([0.1, 0.2, 0.3, 0.7]))
    tree = ProcessTree.from_sequences([[1, 2], [1, 3], [1, 4], [1, 5]])
    weights = LambdaGRPO(power=SignedPower()).estimate(rewards, tree).weights
    assert weights[:, 0].tolist() == [1.0] * 4


@pytest.mark.parametrize("power", [-0.5, float("nan"), float("inf")])
def test_powers_that_make_no_sense(power: float) -> None:
    with pytest.raises(ValueError, match="power is"):
        LambdaGRPO(power=power)
