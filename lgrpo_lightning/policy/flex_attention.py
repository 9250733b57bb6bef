"""Attention over a packed forest as one FlexAttention kernel with a block-sparse mask; for CUDA."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lgrpo_lightning.policy.tree_plan import TreePlan

log = logging.getLogger(__name__)

BLOCK = 128
"""Queries and keys of one block of the mask. Packed sequences on CUDA are padded to a multiple of it."""
SMALLEST_HEAD = 16
"""Triton's matrix products need this many dimensions of a head at least."""
KERNELS = 64
"""Kernels that may be compiled in one process: one for each head size, type, window and mode of gradients."""


def attend_by_flex(
    query: Tensor, key: Tensor, value: Tensor, plan: TreePlan, *, scale: float | None, window: int | None
) -> Tensor:
    """The whole forest in one call.

    Arguments and result are those of ``attend_by_segments``. Heads that the kernel does not take are made to fit:
    too small ones get zeros at their end, keys and values are repeated where a group of heads is no power of two.
    """
    width, groups = query.shape[-1], query.shape[1] // key.shape[1]
    if groups & (groups - 1):
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    if query.is_cuda and width < SMALLEST_HEAD:
        scale = scale if scale is not None else width**-0.5
        query, key, value = (pad(x, (0, SMALLEST_HEAD - width)) for x in (query, key, value))
    kernel = _compile() if query.is_cuda else _import_flex()
    out: Tensor = kernel(
        query,
        key,
        value,
        block_mask=plan.compute_once(("block_mask", window), lambda: make_block_mask(plan, window)),
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[..., :width].transpose(1, 2)


def make_block_mask(plan: TreePlan, window: int | None) -> Any:
    """FlexAttention's mask of the forest, from the ends of its subtrees: the ``[L, L]`` mask is never made.

    Key block j is read by query block i > j wholly where every subtree of j ends behind i, and in part where any
    reaches into i. A window leaves out what is too far above, by the least and largest depths of the blocks.
    """
    from torch.nn.attention.flex_attention import BlockMask

    ends, depth = plan.subtree_end, plan.depth
    wholly, partly = find_blocks(ends, depth, window)

    def reads(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        ancestor = (k <= q) & (q < ends[k])
        return ancestor if window is None else ancestor & (depth[q] - depth[k] < window)

    return BlockMask.from_kv_blocks(
        *_list_blocks(partly),
        *_list_blocks(wholly),
        BLOCK_SIZE=BLOCK,
        mask_mod=reads,
        seq_lengths=(len(ends),) * 2,
    )


def find_blocks(ends: Tensor, depth: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """``[n, n]`` bool: (key blocks that a query block reads wholly, those that it may read in part)."""
    spare = -len(ends) % BLOCK
    last = pad(ends, (0, spare)).view(-1, BLOCK)
    real = pad(torch.ones_like(ends, dtype=torch.bool), (0, spare)).view(-1, BLOCK)
    deep = pad(depth, (0, spare)).view(-1, BLOCK)
    first = torch.arange(len(last), device=ends.device) * BLOCK  # of each block
    before = first[None, :] < first[:, None]
    some = before & (last.amax(1)[None, :] > first[:, None])
    whole = before & (last.amin(1)[None, :] >= first[:, None] + BLOCK)
    if window is not None:
        lowest = deep.masked_fill(~real, deep.max()).amin(1)
        highest = deep.amax(1)
        some &= lowest[:, None] - highest[None, :] < window
        whole &= highest[:, None] - lowest[None, :] < window
    return whole, (some & ~whole) | (first[None, :] == first[:, None])


def _list_blocks(read: Tensor) -> tuple[Tensor, Tensor]:
    """(``[1, 1, n]`` number of blocks, ``[1, 1, n, n]`` their indices first) of ``[n, n]``."""
    counts = read.sum(1, dtype=torch.int32)
    order = read.to(torch.int8).argsort(dim=1, descending=True, stable=True).to(torch.int32)
    return counts[None, None], order[None, None].contiguous()


def _import_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@cache
def _compile() -> Callable[..., Any]:
    """FlexAttention compiled for all lengths; says each time a kernel is compiled.

    The eager version makes all scores at once: ``fullgraph`` makes it an error to pass the limit of graphs.
    """
    from torch._inductor.compile_fx import compile_fx

    allow_graphs(KERNELS)

    def count(graph: Any, inputs: Any) -> Any:
        COMPILED.append(tuple(tuple(x.shape) for x in inputs[:1] if isinstance(x, Tensor)))
        log.info("FlexAttention: compiling kernel %d of this process.", len(COMPILED))
        return compile_fx(graph, inputs)

    return torch.compile(_import_flex(), dynamic=True, fullgraph=True, backend=count)


COMPILED: list[tuple[tuple[int, ...], ...]] = []
"""The shapes of the queries that a kernel was compiled for, in order."""


def allow_graphs(count: int) -> None:
    """Let torch hold so many graphs of a function: past its limit it runs eagerly, and only a log says so."""
    import torch._dynamo

    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, count)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, count)
