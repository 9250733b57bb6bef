"""Attention under a mask without copies of keys and values is that of transformers."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lgrpo_lightning.policy.attention import register_tree_attention

BATCH, LENGTH, WIDTH = 3, 11, 16


@pytest.mark.parametrize("new", [1, 5])
@pytest.mark.parametrize(("heads", "groups"), [(6, 2), (4, 1), (4, 4)])
@pytest.mark.parametrize("additive", [False, True])
def test_grouped_queries_under_a_mask(new, heads, groups, additive) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(BATCH, n, length, WIDTH, generator=generator, requires_grad=True)
        for n, length in ((heads, new), (groups, LENGTH), (groups, LENGTH))
    )
    mask = torch.ones(BATCH, 1, new, LENGTH, dtype=torch.bool).tril(LENGTH - new)
    mask[0, :, :, :3] = False  # padded on the left
    if additive:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    module = torch.nn.Module()
    module.num_key_value_groups = heads // groups
    answers = []
    for name in ("sdpa", register_tree_attention("sdpa")):
        out, _ = ALL_ATTENTION_FUNCTIONS[name](module, query, key, value, mask, scaling=0.3)
        answers.append((out, *torch.autograd.grad(out.square().sum(), (query, key, value))))
    assert torch.equal(answers[0][0], answers[1][0])
    for theirs, ours in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_nothing_is_copied_for_a_group() -> None:
    query, key = torch.randn(1, 8, 1, WIDTH), torch.randn(1, 2, LENGTH, WIDTH)
    mask = torch.ones(1, 1, 1, LENGTH, dtype=torch.bool)
    module = torch.nn.Module()
    module.num_key_value_groups = 4
    attend = ALL_ATTENTION_FUNCTIONS[register_tree_attention("sdpa")]
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as seen:
        attend(module, query, key, key, mask)
    assert not {"aten::clone", "aten::repeat_interleave"} & {event.key for event in seen.key_averages()}
