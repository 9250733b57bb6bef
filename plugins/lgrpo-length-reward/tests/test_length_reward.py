import pytest
from lgrpo_length_reward import LengthReward

from lgrpo_lightning.testing import check_reward_model, toy_group, toy_tree


def test_keeps_the_contract():
    check_reward_model(LengthReward(target_tokens=3))


def test_full_at_the_target_and_falling_to_zero():
    group = toy_group(["ab", "abc", "abcd", "abcdefgh"])
    reward = LengthReward(target_tokens=2, tolerance=2).score(group, toy_tree(group))
    assert reward.tolist() == [1.0, 0.5, 0.0, 0.0]


def test_refuses_a_tolerance_of_zero():
    with pytest.raises(ValueError, match="at least 1"):
        LengthReward(tolerance=0)
