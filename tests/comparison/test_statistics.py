"""Means over seeds, their intervals, when a level is reached."""

import math

import numpy
import pandas
import pytest
from scipy import stats

from lgrpo_lightning.comparison.results import arm_table
from lgrpo_lightning.comparison.statistics import estimate


@pytest.mark.parametrize("count", [2, 5, 20])
def test_the_interval_is_students(count: int) -> None:
    values = numpy.random.default_rng(0).normal(size=count)
    found = estimate(list(values))
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def test_by_hand() -> None:
    """t(0.975; 2) = 4.3027, deviation 1, √3 seeds."""
    found = estimate([1.0, 2.0, 3.0, math.nan])
    assert (found.mean, found.half, found.count) == (2.0, pytest.approx(4.302653 / 3**0.5), 3)


def test_it_covers_as_often_as_it_says() -> None:
    rng = numpy.random.default_rng(1)
    inside = [abs((e := estimate(list(rng.normal(size=5)))).mean) <= e.half for _ in range(1000)]
    assert 0.93 < numpy.mean(inside) < 0.97


def test_differences_are_paired_over_seeds() -> None:
    """Seeds differ by 10, arms by exactly 1: the difference has no spread; a seed that one arm lacks does not count."""
    rows = [("A", s, 10.0 * s) for s in range(4)] + [("B", s, 10.0 * s + 1) for s in (3, 1, 0)]
    table = pandas.DataFrame(
        [
            {
                "arm": arm,
                "setting": "",
                "tuned": "",
                "seed": seed,
                "value": value,
                "rollouts_to_level": math.nan if seed == 0 else float(seed),
                "tokens_to_level": math.nan,
                "level": 0.5,
                "seconds": 1.0,
            }
            for arm, seed, value in rows
        ]
    )
    first, second = arm_table(table).to_dict("records")
    assert math.isnan(first["difference"])
    assert (second["difference"], second["difference_interval"]) == (1.0, 0.0)
    assert (second["seeds"], second["reached"], second["rollouts_to_level"]) == (3, 2, 2.0)
