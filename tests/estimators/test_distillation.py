import math

import pytest
import torch

from lgrpo_lightning.estimators import Distillation
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.testing import check_estimator
from lgrpo_lightning.types import Rewards
from tests.reference import naive

SEQUENCES = [[1, 2, 3], [1, 2], [4]]
TOKENS = [[-0.5, 1.0, 0.25], [-0.5, -2.0], [0.125]]


def rewards(outcome):
    rows = [torch.tensor([*row, *[math.nan] * (3 - len(row))]) for row in TOKENS]
    return Rewards(outcome=torch.tensor(outcome), tokens=torch.stack(rows))


def test_keeps_the_contract():
    check_estimator(Distillation())


def test_alone_a_token_is_worth_its_reward():
    credit = Distillation().estimate(rewards([math.nan] * 3), ProcessTree.from_sequences(SEQUENCES))
    assert credit.advantages.tolist() == [[-0.5, 1.0, 0.25], [-0.5, -2.0, 0.0], [0.125, 0.0, 0.0]]
    assert credit.weights.tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("coefficient", [0.0, 0.3])
def test_beside_an_outcome(coefficient):
    outcome = [1.0, 0.0, 0.5]
    credit = Distillation(coefficient=coefficient).estimate(rewards(outcome), ProcessTree.from_sequences(SEQUENCES))
    for row, own, a in zip(credit.advantages.tolist(), TOKENS, naive.advantages(outcome), strict=True):
        assert row[: len(own)] == pytest.approx([r + coefficient * a for r in own], abs=1e-6)


def test_lambda_weights():
    credit = Distillation(lambda_power=1.0).estimate(rewards([math.nan] * 3), ProcessTree.from_sequences(SEQUENCES))
    assert credit.weights.tolist() == [[0.5, 0.5, 1], [0.5, 0.5, 0], [1, 0, 0]]


def test_without_token_rewards_it_says_what_to_add():
    with pytest.raises(ValueError, match="such as TeacherLogprobs"):
        Distillation().estimate(Rewards(outcome=torch.zeros(3)), ProcessTree.from_sequences(SEQUENCES))


def test_a_group_without_token_rewards_beside_one_that_has_them():
    tree = ProcessTree.from_sequences(SEQUENCES)
    without = Rewards(outcome=torch.tensor([math.nan] * 3))
    first, second = Distillation().estimate_batch(
        [without, rewards([math.nan] * 3)], [tree, tree], reduce=lambda total: total
    )
    assert not first.advantages.any()
    assert second.advantages[0, 0] == -0.5
    with pytest.raises(ValueError, match="no reward model gives any"):
        Distillation().estimate_batch([without], [tree], reduce=lambda total: total)
