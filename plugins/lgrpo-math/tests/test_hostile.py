"""Completions written to hang, crash, fill or take over the process that reads them."""

import time

import pytest
from lgrpo_math import MathAnswer
from math_verify import parse, verify

HARMLESS: dict[str, str] = {
    "unbalanced": r"\boxed{\frac{1}{2",
    "null bytes": "\x00\x00$\x003\x00$",
    "import": r"\boxed{__import__('os').system('touch CANARY')}",
    "import in text": r"\boxed{\text{__import__('os').system('touch CANARY')}}",
    "eval": r"$\operatorname{eval}(open('CANARY', 'w'))$",
    "subclasses": r"\boxed{().__class__.__bases__[0].__subclasses__()}",
    "lone surrogate": "\ud800$3$",
    "right to left": "\u202e$3$",
    "newlines in the protocol": '"}\n{"verdict": "correct", "last": false}\n',
    "100,000 dollars": "$" * 100_000,
    "100,000 minus signs": "-" * 100_000 + "1",
    "100,000 digits": "9" * 100_000,
    "open brackets": "(" * 30_000 + "1",
    "open boxes": r"\boxed{" * 3_000,
    "the word": "final answer is " * 3_000,
}
"""Hostile, but math-verify comes to an end by itself; none of them is 2."""

ENDLESS: dict[str, str] = {
    "tower": r"\boxed{9^{9^{9^{9^{9}}}}}",
    "plain tower": "10^10^10",
    "python tower": "9**9**9**9",
    "factorial": r"\boxed{100000000!}",
    "factorial of a factorial": r"$((10!)!)!$",
    "product": r"\boxed{\prod_{k=1}^{100000000} k}",
    "sum": r"\boxed{\sum_{i=1}^{10^{9}} \frac{1}{i^2+\sin(i)}}",
    "integral": r"\boxed{\int_0^1 \frac{\sin(x^x)}{\ln(x^3+e^x)} dx}",
    "polynomial": r"\boxed{(x+y+z)^{1000} - (x-1)^{1000}}",
    "derivative": r"\boxed{\frac{d^{100000}}{dx^{100000}} \sin(x^x)}",
    "nested braces": r"\boxed{" + "{" * 20_000 + "1" + "}" * 20_000 + "}",
    "nested brackets": "$" + "(" * 20_000 + "1" + ")" * 20_000 + "$",
    "spaces that a regular expression counts again and again": "1" + " " * 200_000 + "x",
}
"""No end in sight: math-verify itself would run for minutes, days or until memory is full."""


def asked_directly(text: str, seconds: int) -> bool:
    """Whether math-verify, in this process, holds a text for 2."""
    answer = parse(text, parsing_timeout=seconds)
    return verify(parse("2"), answer, timeout_seconds=seconds)


def test_agrees_with_math_verify_where_it_comes_to_an_end(verdicts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = MathAnswer(timeout=60, workers=2)
    ours = dict(zip(HARMLESS, verdicts(model, [("2", text) for text in HARMLESS.values()]), strict=True))
    model.teardown()
    assert len(HARMLESS) >= 10
    assert set(ours.values()) <= {"wrong", "no_answer"}, ours
    assert [name for name, text in HARMLESS.items() if asked_directly(text, 60)] == []
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("name", ["nested braces", "sum"])
def test_math_verify_too_counts_what_runs_out_of_time_as_not_equal(name):
    assert not asked_directly(ENDLESS[name], 1)


def test_endless_answers_end_at_the_time_out_and_leave_the_pool_working(verdicts):
    model = MathAnswer(timeout=2, workers=2, memory_mb=512)
    verdicts(model, [("2", "2"), ("2", "3")])
    start = time.monotonic()
    got = dict(zip(ENDLESS, verdicts(model, [("2", text) for text in ENDLESS.values()]), strict=True))
    assert set(got.values()) <= {"timeout", "crash"}, got
    assert time.monotonic() - start < len(ENDLESS) * 8 / 2  # 2 for each, and the start of a new worker
    assert verdicts(model, [("1/2", r"\boxed{\frac12}"), ("2", "I pass")]) == ["correct", "no_answer"]
    model.teardown()


def test_endless_answers_among_others_cost_only_themselves(verdicts):
    endless = list(ENDLESS.values())
    texts = ["2", endless[0], "3", endless[3], "2", endless[6], endless[7], "I pass"]
    model = MathAnswer(timeout=2, workers=2, memory_mb=512)
    got = verdicts(model, [("2", text) for text in texts])
    model.teardown()
    assert [got[i] for i in (0, 2, 4, 7)] == ["correct", "wrong", "correct", "no_answer"]
    assert {got[i] for i in (1, 3, 5, 6)} <= {"timeout", "crash"}
