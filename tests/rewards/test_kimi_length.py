import math
from dataclasses import replace

import pytest
import torch

from lgrpo_lightning.estimators import GDPO
from lgrpo_lightning.rewards import ExactMatch, KimiLengthReward, RewardSum
from lgrpo_lightning.testing import check_reward_model, toy_group, toy_tree


def naive(lengths, outcomes):
    """The paper's rule as a loop."""
    out = []
    for length, outcome in zip(lengths, outcomes, strict=True):
        if max(lengths) == min(lengths):
            out.append(0.0)
            continue
        value = 0.5 - (length - min(lengths)) / (max(lengths) - min(lengths))
        out.append(value if outcome == 1 else min(0, value))
    return out


def scored(model, texts, answer="2"):
    group = toy_group(texts, columns={"answer": answer})
    return model.score_batch([group], [toy_tree(group)])[0]


def test_keeps_the_contract():
    check_reward_model(KimiLengthReward(), toy_group(["2", "1+1=2", "3", "it is 33"], columns={"answer": "2"}))


def test_it_is_the_papers_rule():
    texts = ["2", "so 2", "3", "it must be 3", "well, it is 2"]
    found = scored(KimiLengthReward(coefficient=0.3), texts)
    right = [1, 1, 0, 0, 1]
    expected = naive([len(t) for t in texts], right)
    assert found.parts["KimiLengthReward"].tolist() == pytest.approx(expected)
    assert found.parts["ExactMatch"].tolist() == right
    assert found.outcome.tolist() == pytest.approx([r + 0.3 * e for r, e in zip(right, expected, strict=True)])


def test_one_length_changes_nothing():
    assert scored(KimiLengthReward(), ["2", "3"]).outcome.tolist() == [1, 0]


def test_what_does_not_apply_still_does_not():
    inner = ExactMatch(missing=math.nan)
    found = scored(KimiLengthReward(inner), ["2", "none", "3"])
    assert found.outcome.isnan().tolist() == [False, True, False]


def test_its_coefficient_is_the_weight_of_its_part():
    group = toy_group(["2", "so 2", "3", "it must be 3"], columns={"answer": "2"})
    rewards = RewardSum([KimiLengthReward(coefficient=0.3)], [2.0]).score_batch([group], [toy_tree(group)])[0]
    assert rewards.part_weights == {"ExactMatch": 2.0, "KimiLengthReward": 0.6}
    summed = sum(rewards.part_weights[name] * part for name, part in rewards.parts.items())
    torch.testing.assert_close(rewards.outcome, summed)
    by_hand = replace(rewards, part_weights={"ExactMatch": 2.0, "KimiLengthReward": 0.6})
    got, wanted = (GDPO().estimate(r, toy_tree(group)).advantages for r in (rewards, by_hand))
    assert torch.equal(got, wanted)


def test_a_dropped_episode_is_not_among_the_lengths():
    group = toy_group(["2", "so 2", "2, and so on and on"], columns={"answer": "2"})
    rollouts = (*group.completions[:2], replace(group.completions[2], applies=False))
    found = KimiLengthReward().score_batch([replace(group, completions=rollouts)], [toy_tree(group)])[0]
    assert found.parts["KimiLengthReward"][:2].tolist() == [0.5, -0.5]
    assert found.outcome[2].isnan()


def test_in_a_sum_the_columns_and_parts_are_the_inner_ones():
    model = RewardSum([KimiLengthReward(ExactMatch(column="answer"))])
    assert model.columns == ("answer",)
    group = toy_group(["2", "so 3"], columns={"answer": "2"})
    parts = model.score_batch([group], [toy_tree(group)])[0].parts
    assert list(parts) == ["ExactMatch", "KimiLengthReward"]
    assert torch.equal(parts["KimiLengthReward"], torch.tensor([0.5, -0.5]))


def test_refuses():
    with pytest.raises(ValueError, match="coefficient is -1"):
        KimiLengthReward(coefficient=-1)
