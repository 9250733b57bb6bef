"""Means over seeds, their intervals, when a level is reached."""

import math

import numpy
import pandas
import pytest
from scipy import stats

from lgrpo_lightning.monitoring.figures import draw_values
from lgrpo_lightning.monitoring.markdown import describe_difference
from lgrpo_lightning.monitoring.results import Measure, estimate, settle_metric, tabulate_arms


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
    first, second = tabulate_arms(table).to_dict("records")
    assert math.isnan(first["difference"])
    assert (second["difference"], second["difference_interval"]) == (1.0, 0.0)
    assert (second["seeds"], second["reached"], second["rollouts_to_level"]) == (3, 2, 2.0)


def test_what_is_measured_by_default() -> None:
    """Validation's avg@k where every run has it; the reward where one lacks it; what was asked for in any case."""
    with_it = pandas.DataFrame({"reward": [0.1, 0.2], "val/avg@k": [math.nan, 0.5]})
    without = pandas.DataFrame({"reward": [0.1], "val/avg@k": [math.nan]})
    assert settle_metric(Measure(), [with_it, with_it]).metric == "val/avg@k"
    assert settle_metric(Measure(), [with_it, without]).metric == "reward"
    assert settle_metric(Measure(metric="kl"), [with_it]).metric == "kl"


def test_bands_stay_in_the_range_of_the_metric() -> None:
    figure = draw_values(
        pandas.DataFrame({"setting": "", "arm": ["A", "B"], "mean": [0.95, 0.5], "interval": [0.2, 0.1]}),
        Measure(),
    )
    ends = [path.vertices[:, 1] for bars in figure.axes[0].collections for path in bars.get_paths()]
    assert sorted(numpy.concatenate(ends)) == pytest.approx([0.4, 0.6, 0.75, 1.0])


@pytest.mark.parametrize(
    ("mean", "half", "says"),
    [
        (0.2, 0.1, "ahead of A by 0.200"),
        (-0.2, 0.1, "behind A by 0.200"),
        (0.2, 0.2, "not told apart from A"),
        (0.2, math.nan, "one seed does not tell it apart from A"),
    ],
)
def test_differences_in_words(mean: float, half: float, says: str) -> None:
    assert describe_difference(mean, half, "A") == says
