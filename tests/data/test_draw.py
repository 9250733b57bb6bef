from collections import Counter

import numpy as np
import pytest

from lgrpo_lightning.data.loader import draw_order


def test_the_first_is_drawn_in_proportion_and_so_is_the_second_of_what_is_left():
    weights = np.array([1.0, 2.0, 5.0])
    drawn = [tuple(draw_order(weights, (7, n))[:2]) for n in range(20_000)]
    first = Counter(a for a, _ in drawn)
    assert [first[i] / 20_000 for i in range(3)] == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.01)
    after = Counter(b for a, b in drawn if a == 2)
    assert after[1] / (after[0] + after[1]) == pytest.approx(2 / 3, abs=0.015)


def test_the_key_is_all_that_it_depends_on():
    one, again, other = (draw_order(np.ones(50), key) for key in ((1, 2), (1, 2), (1, 3)))
    assert (one == again).all()
    assert (one != other).any()
    assert sorted(one) == list(range(50))


def test_what_has_no_weight_comes_last():
    assert draw_order(np.array([0.0, 1.0, 0.0, 2.0]), (1,))[:2].tolist() in ([1, 3], [3, 1])
