import math
from collections import Counter

import numpy as np
import pytest
import torch

from lgrpo_lightning.data.curriculum import Curriculum, PassRates
from lgrpo_lightning.data.loader import PromptLoader
from lgrpo_lightning.datamodule import PromptDataModule
from tests.data.test_loader import prompts


def test_rates_and_weights_by_hand():
    """0.8 then 0.4 at decay 3/4: 0.7, whose weight is 0.1 + 0.9 · 4 · 0.7 · 0.3 = 0.856."""
    rates = PassRates(Curriculum(floor=0.1, decay=0.75), ["a", "b", "c", "d"])
    rates.add({"a": 0.8, "b": 1.0, "c": 0.0})
    rates.add({"a": 0.4, "b": math.nan, "of another set": 1.0})
    assert rates.rates[:3].tolist() == pytest.approx([0.7, 1.0, 0.0])
    assert rates.weigh_prompts().tolist() == pytest.approx([0.856, 0.1, 0.1, 1.0])
    assert rates.compute_metrics() == {
        "curriculum/seen": 0.75,
        "curriculum/pass_rate": pytest.approx(1.7 / 3),
    }


def test_the_state_is_plain_and_comes_back():
    rates, other = (PassRates(Curriculum(), ["a", "b"]) for _ in range(2))
    rates.add({"b": 0.25})
    other.load_state_dict(rates.state_dict() | {"epoch": 3})
    np.testing.assert_array_equal(rates.rates, other.rates)
    other.add({"b": 1.0})
    assert rates.rates[1] == 0.25
    assert isinstance(rates.state_dict()["pass_rates"], torch.Tensor)


@pytest.mark.parametrize("state", [{}, {"pass_rates": torch.ones(3, dtype=torch.float64)}])
def test_a_state_without_rates_or_of_another_set_is_left(state):
    rates = PassRates(Curriculum(), ["a", "b"])
    rates.load_state_dict(state)
    assert np.isnan(rates.rates).all()


def loader(rates, rank=0, world_size=1):
    return PromptLoader(
        prompts(10),
        4,
        shuffle=True,
        seed=3,
        drop_last=True,
        rank=rank,
        world_size=world_size,
        weights=rates.weigh_prompts,
    )


def test_batches_follow_the_weights_of_their_time_and_prompts_differ_in_a_batch():
    rates = PassRates(Curriculum(floor=0.02), [p.uid for p in prompts(10)])
    rates.add({f"train/{n}": 1.0 for n in range(5)})
    drawn = Counter()
    made = loader(rates)
    for _ in range(300):
        for batch in made:
            assert len({p.uid for p in batch}) == 4
            drawn.update(p.uid for p in batch)
    solved = sum(drawn[f"train/{n}"] for n in range(5)) / drawn.total()
    assert 0.01 < solved < 0.08
    rates.rates[:] = np.nan
    drawn.clear()
    for _ in range(300):
        for batch in made:
            drawn.update(p.uid for p in batch)
    assert sum(drawn[f"train/{n}"] for n in range(5)) / drawn.total() == pytest.approx(0.5, abs=0.03)


def test_ranks_share_a_batch_and_a_resumed_loader_goes_on():
    rates = PassRates(Curriculum(), [p.uid for p in prompts(10)])
    rates.add({"train/1": 0.0, "train/2": 0.3})
    whole, parts = loader(rates), [loader(rates, rank, 2) for rank in range(2)]
    batches = [[p.uid for p in batch] for batch in whole]
    shares = [[[p.uid for p in batch] for batch in part] for part in parts]
    assert [[b[0::2], b[1::2]] for b in batches] == [list(s) for s in zip(*shares, strict=True)]
    first = loader(rates)
    next(iter(first))
    resumed = loader(rates)
    resumed.load_state_dict(first.state_dict())
    assert [[p.uid for p in batch] for batch in resumed] == batches[1:]


@pytest.mark.parametrize(
    ("options", "message"), [({"floor": 0}, "floor is 0; it must be above 0"), ({"decay": 1}, "below 1")]
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Curriculum(**options)


def test_an_order_and_a_curriculum_are_refused():
    with pytest.raises(ValueError, match=r"data\.shuffle is False; it must be true"):
        PromptDataModule(train="a.jsonl", shuffle=False, curriculum=Curriculum())
