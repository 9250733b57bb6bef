"""The block mask of CUDA's kernel against the dense one, and packed sequences padded to its blocks."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.attention import attend_by_segments
from lgrpo_lightning.policy.flex_attention import BLOCK, attend_by_flex, find_blocks, make_block_mask
from lgrpo_lightning.policy.tree_layout import make_tree_layout
from lgrpo_lightning.policy.tree_plan import TreePlan
from tests.policy.test_tree import Rows, forest


def long_forest(seed: int) -> Rows:
    """Groups that fill several blocks, with prefixes of all lengths in common."""
    rng = random.Random(seed)
    draw = lambda n: [rng.randrange(3, 40) for _ in range(n)]  # noqa: E731
    prompts, completions = [], []
    for _ in range(rng.randint(1, 3)):
        prompt, trunk = draw(rng.randint(1, 260)), draw(300)
        members = [trunk[: rng.randint(0, 300)] + draw(rng.randint(1, 200)) for _ in range(rng.randint(1, 5))]
        prompts += [prompt] * len(members)
        completions += members
    return prompts, completions


def dense(plan: TreePlan, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """``[n, n]`` bool: blocks that the mask fills wholly, and in part, from all ``[L, L]`` of it."""
    n = len(plan.depth)
    q, k = torch.arange(n)[:, None], torch.arange(n)[None, :]
    reads = (k <= q) & (q < plan.subtree_end[None, :])
    if window is not None:
        reads &= plan.depth[:, None] - plan.depth[None, :] < window
    blocks = reads.view(n // BLOCK, BLOCK, n // BLOCK, BLOCK)
    whole = blocks.all(dim=3).all(dim=1)
    return whole, blocks.any(dim=3).any(dim=1) & ~whole


@pytest.mark.parametrize("window", [None, 40, 200])
def test_covers_the_dense_mask(window: int | None) -> None:
    """On 200 forests; without a window it is the dense one, with one it may read a block more, in part."""
    for seed in range(200):
        plan = make_tree_layout(*long_forest(seed), multiple=BLOCK).plan
        whole, partly = find_blocks(plan.subtree_end, plan.depth, window)
        expected_whole, expected_partly = dense(plan, window)
        assert not (whole & ~expected_whole).any(), seed
        assert not ((expected_whole | expected_partly) & ~(whole | partly)).any(), seed
        if window is None:
            assert whole.equal(expected_whole), seed
            assert partly.equal(expected_partly), seed


def test_is_what_create_block_mask_makes() -> None:
    plan = make_tree_layout(*long_forest(3), multiple=BLOCK).plan
    ends = plan.subtree_end
    n = len(ends)
    theirs = create_block_mask(lambda b, h, q, k: (k <= q) & (q < ends[k]), None, None, n, n, device="cpu")
    ours = make_block_mask(plan, None)
    assert ours.to_dense().equal(theirs.to_dense())
    assert ours.kv_num_blocks.equal(theirs.kv_num_blocks)
    assert ours.full_kv_num_blocks.equal(theirs.full_kv_num_blocks)
    assert ours.shape == theirs.shape


@pytest.mark.parametrize("window", [None, 1, 40])
def test_a_token_reads_its_ancestors_within_the_window(window: int | None) -> None:
    plan = make_tree_layout(*forest(3), multiple=BLOCK).plan
    places = range(len(plan.depth))
    ends, depth = plan.subtree_end.tolist(), plan.depth.tolist()
    expected = [[k <= q < ends[k] and (window is None or depth[q] - depth[k] < window) for k in places] for q in places]
    q, k = torch.arange(len(depth))[:, None], torch.arange(len(depth))[None, :]
    nothing = torch.zeros(())
    assert make_block_mask(plan, window).mask_mod(nothing, nothing, q, k).equal(torch.tensor(expected))


def test_is_fast_at_65536() -> None:
    rng = random.Random(0)
    draw = lambda n: [rng.randrange(3, 1000) for _ in range(n)]  # noqa: E731
    prompt = draw(2048)
    plan = make_tree_layout([prompt] * 31, [draw(2048) for _ in range(31)], multiple=BLOCK).plan
    assert len(plan.depth) == 65536
    started = time.perf_counter()
    make_block_mask(plan, None)
    make_block_mask(plan, 4096)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 16), (9, 3, 8), (4, 1, 12)])
@pytest.mark.parametrize("window", [None, 50])
def test_equals_the_segments(heads: int, kv_heads: int, width: int, window: int | None) -> None:
    """Also with groups of three heads, and at a length that is padded to blocks."""
    plan = make_tree_layout(*long_forest(5), multiple=BLOCK).plan
    length, real = len(plan.depth), max(s.start + s.length for s in plan.segments)
    query = torch.randn(1, heads, length, width)
    key, value = torch.randn(2, 1, kv_heads, length, width)
    a = attend_by_segments(query, key, value, plan, scale=None, window=window)
    b = attend_by_flex(query, key, value, plan, scale=None, window=window)
    torch.testing.assert_close(a[:, :real], b[:, :real], atol=1e-5, rtol=1e-5)


def test_padding_to_blocks_changes_nothing(model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("llama"))))
    rows = forest(3)
    one, padded = make_tree_layout(*rows), make_tree_layout(*rows, multiple=BLOCK)
    assert padded.num_tokens % BLOCK == 0
    assert one.num_tokens % BLOCK
    hidden = [
        policy.model.get_decoder()(
            input_ids=made.input_ids,
            position_ids=made.position_ids,
            use_cache=False,
            **made.model_arguments,
        ).last_hidden_state[0, made.predictors]
        for made in (one, padded)
    ]
    torch.testing.assert_close(hidden[0], hidden[1], atol=1e-5, rtol=1e-5)
