from decimal import Decimal

import pytest
import torch

from lgrpo_lightning.rewards import ExactMatch, RewardError
from lgrpo_lightning.rewards.exact_match import find_boxed, is_same_answer
from lgrpo_lightning.rewards.numbers import find_last_number, parse_number
from lgrpo_lightning.testing import check_reward_model, toy_group, toy_tree


def scored(model, texts, answer, column="answer"):
    group = toy_group(texts, columns={column: answer})
    return model.score(group, toy_tree(group))


def test_keeps_the_contract():
    check_reward_model(ExactMatch())


@pytest.mark.parametrize(
    "answer", ["1,000", "1000", "1000.0", 1000, 1000.0, "1e3", "$1,000", "2000/2", Decimal("1000.00")]
)
@pytest.mark.parametrize("text", ["so 1,000", "1000", "= 1000.0.", "it is $1,000.00!", "1e3", "3000/3"])
def test_numbers_are_numbers(text, answer):
    assert scored(ExactMatch(), [text], answer).outcome.item() == 1.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("7-5", "5"),
        ("= -5", "-5"),
        ("(3)-2", "2"),
        ("−4 degrees", "−4"),
        ("1,0000", "0000"),
        ("12,345,678.9", "12,345,678.9"),
        ("a .5 share", ".5"),
        ("x = 1/3", "1/3"),
        ("v1.2.", "1.2"),
        ("nothing", None),
        ("", None),
        (".", None),
    ],
)
def test_last_number(text, found):
    assert find_last_number(text) == found


@pytest.mark.parametrize("text", ["", "x", "1 2", "1,00", "1/0", "--1", "nan", "inf", "True", "1" * 5000, "1e99999"])
def test_no_numbers(text):
    assert parse_number(text) is None


def test_exact_where_floats_are_not():
    assert not is_same_answer("9007199254740993", "9007199254740992")
    assert is_same_answer("0.30", 0.3)
    assert not is_same_answer("0.3000000000000000001", "0.3")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{4}", "4"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{3} \boxed {5", None),
        (r"\boxed{5} and \boxed{unfinished", "5"),
        ("none", None),
    ],
)
def test_boxed(text, found):
    assert find_boxed(text) == found


def test_boxed_compares_text_and_numbers():
    model = ExactMatch(extract="boxed")
    assert scored(model, [r"\boxed{x +  1}", r"\boxed{x+2}"], "x + 1").outcome.tolist() == [1.0, 0.0]
    assert scored(model, [r"\boxed{1{,}000}"], r"hence \boxed{1000}").outcome.tolist() == [1.0]


def test_regular_expression_takes_the_last_match():
    model = ExactMatch(column="gold", extract=r"<answer>(.*?)</answer>")
    texts = ["<answer>1</answer><answer>\n2 </answer>", "2"]
    assert scored(model, texts, "2", column="gold").outcome.tolist() == [1.0, 0.0]


def test_a_worked_solution_in_the_column():
    assert scored(ExactMatch(), ["42", "2"], "6 * 7 = 42\n#### 42").outcome.tolist() == [1.0, 0.0]


def test_rewards_and_missing_answers():
    model = ExactMatch(correct=2.0, incorrect=-1.0, missing=-3.0)
    rewards = scored(model, ["4", "5", "pass", ""], 4)
    assert rewards.outcome.tolist() == [2.0, -1.0, -3.0, -3.0]
    assert rewards.metrics["rewards/ExactMatch/no_answer"] == 0.5
    assert torch.equal(rewards.parts["ExactMatch"], rewards.outcome)


@pytest.mark.parametrize("answer", [None, float("nan")])
def test_an_empty_column_is_an_error_and_not_a_wrong_answer(answer):
    with pytest.raises(
        RewardError,
        match=r"Prompt 'toy/0': ExactMatch: there is no answer in column 'answer'; the columns are",
    ):
        scored(ExactMatch(), ["1"], answer)


def test_a_column_without_a_number_is_an_error():
    with pytest.raises(RewardError, match="is 'two', in which there is no number"):
        scored(ExactMatch(), ["2"], "two")


@pytest.mark.parametrize(
    ("extract", "message"), [("(", "no valid regular"), ("last", "has no group.*'last_number', 'boxed'")]
)
def test_refuses(extract, message):
    with pytest.raises(ValueError, match=message):
        ExactMatch(extract=extract)


def test_columns():
    assert ExactMatch(column="gold").columns == ("gold",)
    assert ExactMatch.columns == ()
