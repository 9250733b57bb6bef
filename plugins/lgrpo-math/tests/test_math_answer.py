"""Rewards, metrics, options and errors."""

import doctest
import math
import subprocess
import sys

import lgrpo_math
import pytest
from lgrpo_math import MathAnswer, checker, gold, math_answer

from lgrpo_lightning.registry.lookup import components
from lgrpo_lightning.rewards.checks import RewardError, check_rewards
from lgrpo_lightning.testing import check_reward_model, toy_group, toy_tree

TEXTS = ["2", "3", "I pass", r"\boxed{9^{9^{9^{9^{9}}}}}"]


@pytest.fixture
def made():
    """Makes models and ends their workers."""
    models: list[MathAnswer] = []

    def make(**options) -> MathAnswer:
        models.append(MathAnswer(**{"workers": 1, "timeout": 60, **options}))
        return models[-1]

    yield make
    for model in models:
        model.teardown()


def scored(model, texts, answer="2"):
    group = toy_group(texts, columns={model.column: answer})
    (rewards,) = model.score_batch([group], [toy_tree(group)])
    return rewards


def asked_for(model):
    """How many verdicts are asked for at a time, a list that grows."""
    asked = []
    pool = model._running()
    verdicts = pool.verdicts
    pool.verdicts = lambda requests, seconds: asked.append(len(requests)) or verdicts(requests, seconds)
    return asked


def test_keeps_the_contract(made):
    rewards = check_reward_model(made(workers=2))
    assert rewards.outcome.tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("module", [checker, gold, math_answer])
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_every_verdict_has_its_share_and_its_reward(made):
    model = made(timeout=2, correct=1.0, incorrect=-1.0, missing=-2.0, unchecked=math.nan)
    rewards = scored(model, TEXTS)
    assert rewards.outcome.tolist()[:3] == [1.0, -1.0, -2.0]
    assert rewards.outcome[3].isnan()
    assert rewards.parts.keys() == {"MathAnswer"}
    assert rewards.extras == {"MathAnswer/verdict": ["correct", "wrong", "no_answer", "timeout"]}
    assert rewards.metrics == {
        "rewards/MathAnswer/wrong": 0.25,
        "rewards/MathAnswer/no_answer": 0.25,
        "rewards/MathAnswer/timeouts": 0.25,
        "rewards/MathAnswer/crashes": 0.0,
    }
    group = toy_group(TEXTS, columns={"answer": "2"})
    assert check_rewards(model, [group], [toy_tree(group)], [rewards])


def test_without_own_rewards_everything_but_right_is_incorrect(made):
    assert scored(made(timeout=2, incorrect=-1.0), TEXTS).outcome.tolist() == [1.0, -1.0, -1.0, -1.0]


def test_all_groups_go_to_the_workers_at_once(made):
    model = made()
    groups = [toy_group(["2", "3"], columns={"answer": "2"}), toy_group(["2"], columns={"answer": "3"})]
    asked = asked_for(model)
    rewards = model.score_batch(groups, [toy_tree(g) for g in groups])
    assert [r.outcome.tolist() for r in rewards] == [[1.0, 0.0], [0.0]]
    assert asked == [2, 3]  # both right answers, then all completions


def test_a_batch_may_be_empty(made):
    assert made().score_batch([], []) == []


@pytest.mark.parametrize(
    ("extract", "right"),
    [
        ("any", ["2", "$2$", r"\boxed{2}"]),
        ("latex", ["$2$", r"\boxed{2}"]),
        ("boxed", [r"\boxed{2}", r"first \boxed{3}, no: \boxed{2}", r"\boxed{\frac{4}{2}} and $3$"]),
    ],
)
def test_extract_says_where_an_answer_stands(made, extract, right):
    texts = [
        "2",
        "$2$",
        r"\boxed{2}",
        r"first \boxed{3}, no: \boxed{2}",
        r"\boxed{\frac{4}{2}} and $3$",
        r"\boxed{2",
    ]
    got = scored(made(extract=extract), texts)
    correct = [t for t, v in zip(texts, got.outcome.tolist(), strict=True) if v == 1]
    assert [t for t in right if t in correct] == right
    if extract == "boxed":
        assert correct == right
    if extract != "any":
        assert got.extras["MathAnswer/verdict"][0] == "no_answer"


def test_strictness_and_rounding(made):
    assert scored(made(), ["$y+1$"], "x+1").outcome.tolist() == [0.0]
    assert scored(made(strict=False), ["$y+1$"], "x+1").outcome.tolist() == [1.0]
    assert scored(made(), ["0.33"], "1/3").outcome.tolist() == [0.0]
    assert scored(made(float_rounding=2), ["0.33"], "1/3").outcome.tolist() == [1.0]


def test_a_list_in_the_column_accepts_each_of_its_answers(made):
    got = scored(made(column="solutions"), ["2", "$x$", "3"], ["x", 2])
    assert got.outcome.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("empty", [None, math.nan, "", "  ", [], [None]])
def test_refuses_a_prompt_without_an_answer(made, empty):
    with pytest.raises(RewardError, match=r"Prompt 'toy/0': .*there is no answer in column 'answer'.*\['answer'\]"):
        scored(made(), ["2"], empty)


@pytest.mark.parametrize("text", ["12:30", "2024-05-06", "3:1", "5/6/2024", "#### 12:30"])
def test_refuses_what_math_verify_reads_as_arithmetic(made, text):
    with pytest.raises(ValueError, match=r"column 'answer' is '.*', a date, a time or a ratio: ExactMatch"):
        made().check_row({"answer": text})


def test_reads_the_policys_own_words(made):
    solved = ({"role": "user", "content": "1+1?"}, {"role": "assistant", "content": r"\boxed{2}"})
    group = toy_group(["I do not know."], columns={"answer": "2"}, messages=solved, prompt=r"1+1?\boxed{2}")
    (rewards,) = made().score_batch([group], [toy_tree(group)])
    assert rewards.outcome.tolist() == [0.0]


@pytest.mark.parametrize("bad", [r"\boxed{", r"$\frac{1}{$", "½ + {", "?!?!", "$$"])
def test_refuses_a_right_answer_that_cannot_be_read(made, bad):
    model = made()
    groups = [
        toy_group(["2"], columns={"answer": "2"}, uid="train/0"),
        toy_group(["2"], columns={"answer": bad}, uid="train/7"),
    ]
    with pytest.raises(RewardError) as caught:
        model.score_batch(groups, [toy_tree(g) for g in groups])
    message = str(caught.value)
    assert "column 'answer' of prompt 'train/7'" in message
    assert repr(bad) in message
    assert "finds no answer" in message


def test_refuses_a_right_answer_that_has_no_end(made):
    with pytest.raises(RewardError, match=r"prompt 'toy/0' is .* \(40005 characters\).*within 2 seconds"):
        scored(made(timeout=2), ["2"], "$" + "(" * 20_000 + "1" + ")" * 20_000 + "$")


def test_right_answers_are_read_once(made):
    model = made()
    scored(model, ["2"])
    asked = asked_for(model)
    scored(model, ["2", "3"])
    assert asked == [0, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extract": "box"}, "extract is 'box'; it must be one of any, latex, boxed"),
        ({"timeout": 0}, "timeout is 0; it must be a number of seconds above 0"),
        ({"timeout": math.inf}, "timeout is inf"),
        ({"workers": 0}, "workers is 0; it must be at least 1"),
        ({"memory_mb": 10}, "memory_mb is 10; it must be at least 256"),
        ({"float_rounding": -1}, "float_rounding is -1; it must be at least 0"),
        ({"missing": -math.inf}, "missing is -inf; it must be finite"),
    ],
)
def test_refuses_what_is_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        MathAnswer(**options)


def test_is_found_by_the_registry():
    assert lgrpo_math.lgrpo_components() == [MathAnswer]
    assert components()["MathAnswer"].package == "lgrpo-math"


def test_a_worker_loads_neither_torch_nor_numpy():
    code = f"import runpy, sys; runpy.run_path({checker.__file__!r}); import math_verify; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert "math_verify" in loaded
    assert not {"torch", "numpy", "lgrpo_lightning"} & set(loaded)


def test_importing_the_package_loads_no_torch():
    code = "import lgrpo_math, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
