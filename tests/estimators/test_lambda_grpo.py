import pytest
import torch

from lgrpo_lightning.contracts import Rewards
from lgrpo_lightning.estimators import GRPO, LambdaGRPO
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
    weights = LambdaGRPO(power=power).weights(TREE)
    shared = [[3, 2, 1], [3, 2], [3, 1], [1]]
    for row, sizes in enumerate(shared):
        expected = [size**-power for size in sizes]
        assert weights[row, : len(sizes)].tolist() == pytest.approx(expected, abs=1e-6)
        assert not weights[row, len(sizes) :].any()


@pytest.mark.parametrize("power", [-0.5, float("nan"), float("inf")])
def test_powers_that_make_no_sense(power: float) -> None:
    with pytest.raises(ValueError, match="power is"):
        LambdaGRPO(power=power)
