"""The cache of sampling: room for more tokens, rows that are selected."""

import torch

from lgrpo_lightning.policy.cache import PreallocatedLayer, _select


def test_a_layer_without_room_left_gets_more() -> None:
    layer = PreallocatedLayer(spare=2)
    keys = torch.randn(3, 2, 9, 4)
    values = torch.randn(3, 2, 9, 4)
    for start, end in ((0, 3), (3, 4), (4, 5), (5, 6), (6, 9)):
        held = layer.update(keys[:, :, start:end], values[:, :, start:end])
        assert torch.equal(held[0], keys[:, :, :end])
        assert torch.equal(held[1], values[:, :, :end])
    assert layer.get_seq_length() == 9


def test_states_are_selected_where_there_is_one_for_each_sequence() -> None:
    rows = torch.tensor([2, 0, 0])
    states = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(_select(states, rows, 3), states[[2, 0, 0]])
    assert _select(states, rows, 4) is states
    places = torch.arange(12).reshape(2, 3, 2)  # of several kinds, the sequences behind them
    assert torch.equal(_select(places, rows, 3), places[:, [2, 0, 0]])
    assert _select("kind", rows, 3) == "kind"
