"""The verdicts are math-verify's own."""

import time

import pytest
from lgrpo_math import MathAnswer
from lgrpo_math.gold import gold_texts
from math_verify import parse, verify
from pairs import ENDLESS, HARMLESS, PAIRS

from lgrpo_lightning.testing import toy_group, toy_tree


def verdicts(model: MathAnswer, pairs: list[tuple[object, str]]) -> list[str]:
    groups = [
        toy_group([text], columns={"answer": gold}, uid=f"pair/{i}") for i, (gold, text) in enumerate(pairs)
    ]
    rewards = model.score_batch(groups, [toy_tree([[1]])] * len(groups))
    return [r.extras["MathAnswer/verdict"][0] for r in rewards]


def asked_directly(gold: object, text: str, seconds: int = 60) -> bool:
    """What math-verify says in this process, as its documentation calls it."""
    (gold_text,) = gold_texts(gold)
    answer = parse(text, parsing_timeout=seconds)
    return verify(parse(gold_text, parsing_timeout=seconds), answer, timeout_seconds=seconds)


@pytest.fixture(scope="module")
def patient():
    model = MathAnswer(timeout=60, workers=2)
    yield model
    model.teardown()


def test_agrees_with_math_verify_and_with_the_answer_by_hand(patient):
    assert len(PAIRS) >= 60
    ours = [v == "correct" for v in verdicts(patient, [(gold, text) for gold, text, _ in PAIRS])]
    assert ours == [asked_directly(gold, text) for gold, text, _ in PAIRS]
    wrong = [(pair, got) for pair, got in zip(PAIRS, ours, strict=True) if pair[2] != got]
    assert not wrong


def test_agrees_with_math_verify_on_hostile_text(patient, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = dict(zip(HARMLESS, verdicts(patient, [("2", text) for text in HARMLESS.values()]), strict=True))
    assert set(ours.values()) <= {"wrong", "no_answer"}
    assert not any(asked_directly("2", text) for text in HARMLESS.values())
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("name", ["nested braces", "sum"])
def test_a_time_out_is_what_math_verify_counts_as_wrong(name):
    assert not asked_directly("2", ENDLESS[name], seconds=1)


def test_endless_answers_end_at_the_time_out_and_leave_the_pool_working():
    model = MathAnswer(timeout=2, workers=2, memory_mb=512)
    verdicts(model, [("2", "2"), ("2", "3")])  # so that both workers run
    start = time.monotonic()
    for name, text in ENDLESS.items():
        before = time.monotonic()
        (verdict,) = verdicts(model, [("2", text)])
        assert verdict in ("timeout", "crash"), name
        assert time.monotonic() - before < 2 + 10, name
    between = [("2", text) for text in list(ENDLESS.values())[:4]]
    mixed = verdicts(model, [("2", "2"), between[0], ("2", "3"), between[1], ("2", "2"), between[2], between[3]])
    assert [mixed[i] for i in (0, 2, 4)] == ["correct", "wrong", "correct"]
    assert {mixed[i] for i in (1, 3, 5, 6)} <= {"timeout", "crash"}
    assert time.monotonic() - start < 120
    assert verdicts(model, [("1/2", r"\boxed{\frac12}"), ("2", "I pass")]) == ["correct", "no_answer"]
    model.teardown()
