import pytest

from lgrpo_lightning.rewards import FormatMatch
from lgrpo_lightning.testing import check_reward_model, toy_group, toy_tree


def scores(model, texts):
    group = toy_group(texts)
    return model.score(group, toy_tree(group)).tolist()


def test_keeps_the_contract():
    check_reward_model(FormatMatch("2"))


def test_full_and_search():
    texts = ["<a>1\n2</a>\n", "so <a>1</a>", "1"]
    assert scores(FormatMatch("<a>.*</a>"), texts) == [1.0, 0.0, 0.0]
    assert scores(FormatMatch("<a>.*</a>", match="search", reward=0.5, otherwise=-1.0), texts) == [
        0.5,
        0.5,
        -1.0,
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pattern": "("}, "no valid regular"), ({"pattern": "a", "match": "whole"}, "'full' and 'search'")],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        FormatMatch(**options)
