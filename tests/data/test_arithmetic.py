import random
import re

import pytest

from lgrpo_lightning.data.arithmetic import ArithmeticTasks, solve_sum


def check_solution(prompt: str, solution: str) -> int:
    """Verify every line by hand-written arithmetic and return the last partial sum."""
    terms = [int(n) for n in prompt.removesuffix("=").split("+")]
    total = terms[0]
    lines = solution.splitlines()
    assert len(lines) == len(terms) - 1
    for line, term in zip(lines, terms[1:], strict=True):
        left, right, value = map(int, re.fullmatch(r"(\d+)\+(\d+)=(\d+)", line).groups())
        assert (left, right, value) == (total, term, total + term)
        total = value
    return total


def test_rows_are_sums_with_their_answers_worked_out():
    for row in ArithmeticTasks(count=200, terms=5, min_terms=2, max_term=50).rows():
        assert set(row) == {"prompt", "answer", "solution"}
        assert check_solution(row["prompt"], row["solution"]) == row["answer"]
        assert row["solution"].endswith(f"={row['answer']}\n")


def test_difficulty_sets_the_terms_and_their_size():
    def terms(row):
        return [int(n) for n in row["prompt"].removesuffix("=").split("+")]

    rows = ArithmeticTasks(count=300, terms=4, max_term=9).rows()
    assert {len(terms(r)) for r in rows} == {4}
    assert {n for r in rows for n in terms(r)} == set(range(1, 10))
    assert {len(terms(r)) for r in ArithmeticTasks(count=300, terms=4, min_terms=2).rows()} == {2, 3, 4}


def test_the_seed_decides_the_tasks():
    assert ArithmeticTasks(count=50, seed=3).rows() == ArithmeticTasks(count=50, seed=3).rows()
    assert ArithmeticTasks(count=50, seed=3).rows() != ArithmeticTasks(count=50, seed=4).rows()
    assert ArithmeticTasks(count=20, seed=3).rows() == ArithmeticTasks(count=50, seed=3).rows()[:20]


def test_mistakes_come_at_their_rate_and_are_carried_on():
    rng = random.Random(0)
    wrong = lines = 0
    for _ in range(2000):
        solution = solve_sum([12, 7, 19, 5], mistake_rate=0.2, rng=rng)
        expected = 12
        for line, term in zip(solution.splitlines(), (7, 19, 5), strict=True):
            left, right, value = map(int, re.fullmatch(r"(\d+)\+(\d+)=(\d+)", line).groups())
            assert (left, right) == (expected, term)  # the next line resumes from what was written
            wrong += value != left + right
            lines += 1
            expected = value
    assert wrong / lines == pytest.approx(0.2, abs=0.015)


def test_partial_sums_stay_positive():
    rng = random.Random(1)
    for _ in range(200):
        numbers = re.findall(r"\d+", solve_sum([1, 1, 1], mistake_rate=1.0, rng=rng))
        assert "-" not in numbers
        assert all(int(n) > 0 for n in numbers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count is 0; it must be at least 1"),
        ({"terms": 1}, "terms is 1; it must be at least 2"),
        ({"max_term": 0}, "max_term is 0; it must be at least 1"),
        ({"terms": 3, "min_terms": 4}, r"min_terms is 4; it must be between 2 and terms \(3\)"),
    ],
)
def test_bad_arguments_say_what_is_possible(arguments, message):
    with pytest.raises(ValueError, match=message):
        ArithmeticTasks(**arguments)


@pytest.mark.parametrize(("rate", "rng"), [(1.5, random.Random(0)), (-0.1, random.Random(0)), (0.2, None)])
def test_a_mistake_rate_needs_a_range_and_an_rng(rate, rng):
    with pytest.raises(ValueError, match="mistake_rate is"):
        solve_sum([1, 2], mistake_rate=rate, rng=rng)
