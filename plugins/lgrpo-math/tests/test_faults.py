"""A math-verify that raises, hangs, dies or answers with None: what the rewards and the run make of it."""

import math

import pytest
from lgrpo_math import MathAnswer

from lgrpo_lightning.functional import group_advantages
from lgrpo_lightning.rewards import RewardSum
from lgrpo_lightning.testing import toy_group, toy_tree

FAKE = """
import os, time

class LatexExtractionConfig: ...
class ExprExtractionConfig: ...

def parse(text, *args, **kwargs):
    for word, act in ACTS.items():
        if word in text:
            act()
    return None if "none" in text else [text.strip("\\\\boxed{}")]

def verify(gold, answer, **kwargs):
    if "incomparable" in answer:
        raise ArithmeticError("as asked")
    return None if "unknown" in answer else gold == answer

def raises():
    raise RuntimeError("as asked")

ACTS = {
    "raise": raises,
    "hang": lambda: time.sleep(600),
    "die": lambda: os._exit(3),
    "full": lambda: bytearray(1 << 40),
}
"""


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Rewards of completions under a math-verify that does what a completion says."""
    (tmp_path / "math_verify.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    models = []

    def score(*texts, **options):
        model = MathAnswer(timeout=1, workers=2, **options)
        models.append(model)
        group = toy_group(list(texts), columns={"answer": "right"})
        (rewards,) = RewardSum([model]).score_batch([group], [toy_tree(group)])
        return rewards

    yield score
    for model in models:
        model.teardown()


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("raise", "no_answer"),
        ("none", "no_answer"),
        ("incomparable", "wrong"),
        ("unknown", "wrong"),
        ("hang", "timeout"),
        ("die", "crash"),
        ("full", "crash"),
    ],
)
def test_a_fault_costs_its_own_answer_and_is_counted(scored, text, verdict):
    rewards = scored("right", text, "other", "right", missing=-2.0, unchecked=math.nan)
    assert rewards.extras["MathAnswer/verdict"] == ["correct", verdict, "wrong", "correct"]
    expected = {"no_answer": -2.0, "wrong": 0.0}.get(verdict)
    assert rewards.outcome.tolist()[::2] == [1.0, 0.0]
    assert rewards.outcome[3] == 1.0
    assert rewards.outcome[1].isnan() if expected is None else rewards.outcome[1] == expected
    counted = {"wrong": "wrong", "no_answer": "no_answer", "timeout": "timeouts", "crash": "crashes"}[verdict]
    assert rewards.metrics[f"rewards/MathAnswer/{counted}"] == (0.5 if verdict == "wrong" else 0.25)


def test_nothing_but_hanging_answers_teaches_nothing(scored):
    rewards = scored("hang", "hang", "hang", unchecked=math.nan)
    assert rewards.outcome.isnan().all()
    assert rewards.metrics["rewards/MathAnswer/timeouts"] == 1.0
    assert group_advantages(rewards.outcome[None]).tolist() == [[0.0, 0.0, 0.0]]


def test_by_default_an_unchecked_answer_is_incorrect_and_seen(scored):
    rewards = scored("right", "hang")
    assert rewards.outcome.tolist() == [1.0, 0.0]
    assert rewards.metrics["rewards/MathAnswer/timeouts"] == 0.5
    assert rewards.extras["MathAnswer/verdict"] == ["correct", "timeout"]


def test_the_run_goes_on_where_its_workers_are_gone(scored):
    verdicts = scored("die", "die", "right", "die", "right").extras["MathAnswer/verdict"]
    assert verdicts == ["crash", "crash", "correct", "crash", "correct"]
