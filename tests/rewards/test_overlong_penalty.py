import pytest
from trl.rewards import get_soft_overlong_punishment

from lgrpo_lightning.rewards import OverlongPenalty
from lgrpo_lightning.testing import check_reward_model, toy_group, toy_tree


def scores(model, texts, *, eos):
    group = toy_group(texts, eos=eos)
    return model.score(group, toy_tree(group)).tolist()


def test_keeps_the_contract():
    check_reward_model(OverlongPenalty(max_length=4, buffer=3))


def test_equation_13_by_hand():
    """L = 10, B = 4: nothing up to 6, then a quarter a token, all from 10 on."""
    texts = ["a" * (n - 1) for n in (1, 6, 7, 8, 9, 10, 11, 40)]
    assert scores(OverlongPenalty(10, 4), texts, eos=True) == [0, 0, -0.25, -0.5, -0.75, -1, -1, -1]


def test_it_is_trls():
    texts = ["a" * n for n in range(30)]
    function = get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=7)
    expected = function(completion_ids=[[0] * (n + 1) for n in range(30)])
    assert scores(OverlongPenalty(20, 7), texts, eos=True) == pytest.approx(expected)


def test_what_was_cut_off_is_punished_in_full():
    assert scores(OverlongPenalty(10, 4), ["aaa"], eos=False) == [-1]


@pytest.mark.parametrize("buffer", [0, 11])
def test_refuses(buffer):
    with pytest.raises(ValueError, match=r"at least 1 and at most max_length, 10\."):
        OverlongPenalty(10, buffer)
