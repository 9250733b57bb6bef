import math

import pytest
import torch

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
    check_reward_model(
        KimiLengthReward(), toy_group(["2", "1+1=2", "3", "it is 33"], columns={"answer": "2"})
    )


def test_it_is_the_papers_rule():
    texts = ["2", "so 2", "3", "it must be 3", "well, it is 2"]
    found = scored(KimiLengthReward(coefficient=0.3), texts)
    right = [1, 1, 0, 0, 1]
    expected = naive([len(t) for t in texts], right)
    assert found.parts["KimiLengthReward"].tolist() == pytest.approx(expected)
    assert found.parts["ExactMatch"].tolist() == right
    assert found.outcome.tolist() == pytest.approx(
        [r + 0.3 * e for r, e in zip(right, expected, strict=True)]
    )


def test_one_length_changes_nothing():
    assert scored(KimiLengthReward(), ["2", "3"]).outcome.tolist() == [1, 0]


def test_what_does_not_apply_still_does_not():
    inner = ExactMatch(missing=math.nan)
    found = scored(KimiLengthReward(inner), ["2", "none", "3"])
    assert found.outcome.isnan().tolist() == [False, True, False]


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
