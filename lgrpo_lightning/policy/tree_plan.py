"""Attention over a packed forest: which keys each run of tokens reads.

In a packed sequence every group is one tree: its prompt, then the trie of its completions in depth-first order.
A *segment* is a run of tokens without a branch: a prompt, or a chain of the trie. Its queries read the path from
the root to the segment and the segment itself, causally. Segments of like shape are computed as one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from lgrpo_lightning.process_tree import Trie

Made = TypeVar("Made")

WASTE = 1.5
"""Segments share a batch while its padded area is at most this times their own."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Queries ``start … start + length`` of the sequence; ``keys``: their path from the root, themselves last."""

    start: int
    length: int
    keys: Tensor


@dataclass(frozen=True, kw_only=True)
class Block:
    """Segments computed as one batch, padded on the right.

    Attributes:
        query: ``[B, Q]`` packed positions of the queries; padding repeats position 0.
        key: ``[B, K]`` packed positions of the keys; key j of a path has depth j.
        depth: ``[B, Q]`` depth of each query.
        causal: The plain causal mask is enough: every segment is a whole path.
    """

    query: Tensor
    key: Tensor
    depth: Tensor
    causal: bool
    _masks: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict, repr=False)

    def make_mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """``[B, 1, Q, K]`` additive mask: a key at most as deep as the query, and less than ``window`` above it."""
        if (window, dtype) not in self._masks:
            distance = self.depth[:, :, None] - torch.arange(self.key.shape[1], device=self.key.device)
            banned = (distance < 0) if window is None else (distance < 0) | (distance >= window)
            mask = torch.zeros(banned.shape, dtype=dtype, device=banned.device)
            self._masks[window, dtype] = mask.masked_fill_(banned, -torch.inf)[:, None]
        return self._masks[window, dtype]


@dataclass(frozen=True, kw_only=True)
class TreePlan:
    """The attention of one packed sequence of length L.

    Attributes:
        depth, subtree_end: ``[L]`` of the forest, for kernels that take one mask function: key k is read by query q
            exactly when ``k <= q < subtree_end[k]``.
        trees: (prompt's length, trie of the completions, first position) of each tree, for kernels that compute runs
            of tokens batch by batch.
    """

    depth: Tensor
    subtree_end: Tensor
    trees: tuple[tuple[int, Trie, int], ...]
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    def compute_once(self, name: Any, make: Callable[[], Made]) -> Made:
        """The result of ``make``, computed at the first use."""
        if name not in self._made:
            self._made[name] = make()
        value: Made = self._made[name]
        return value

    @property
    def batches(self) -> tuple[tuple[Block, ...], Tensor]:
        """(the batches of segments, ``[L]`` where each position's output stands among the outputs of all batches)."""
        return self.compute_once("batches", lambda: _make_blocks(self.segments, len(self.depth), self.depth.device))

    @property
    def segments(self) -> list[Segment]:
        """The runs of tokens without a branch."""
        return [segment for tree in self.trees for segment in list_segments(*tree)]


def list_segments(prompt_length: int, trie: Trie, offset: int) -> list[Segment]:
    """The segments of one tree whose prompt starts at packed position ``offset``."""
    prompt = torch.arange(offset, offset + prompt_length)
    segments = [Segment(start=offset, length=prompt_length, keys=prompt)]
    nodes = len(trie)
    if not nodes:
        return segments
    parents, depths = trie.parents.tolist(), trie.depths.tolist()
    starts = [k for k in range(nodes) if k == 0 or parents[k] != k - 1]
    first = offset + prompt_length
    paths: dict[int, Tensor] = {}  # chain start → the nodes from the root to the chain's end
    chain_of = torch.zeros(nodes, dtype=torch.long)
    for start, end in zip(starts, [*starts[1:], nodes], strict=True):
        chain_of[start:end] = start
        own = torch.arange(start, end)
        above = paths[int(chain_of[parents[start]])][: depths[start]] if depths[start] else own[:0]
        paths[start] = torch.cat([above, own])
        keys = torch.cat([prompt, first + paths[start]])
        segments.append(Segment(start=first + start, length=end - start, keys=keys))
    return segments


def _make_blocks(segments: Sequence[Segment], length: int, device: torch.device) -> tuple[tuple[Block, ...], Tensor]:
    """Batch the segments of a packed sequence of ``length`` tokens; what is in none of them gets any output."""
    restore = torch.zeros(length, dtype=torch.long)
    blocks: list[Block] = []
    base = 0
    for batch in _batch_segments(segments):
        blocks.append(block := _make_block(batch, device))
        for row, s in enumerate(batch):
            at = base + row * block.query.shape[1]
            restore[s.start : s.start + s.length] = torch.arange(at, at + s.length)
        base += block.query.numel()
    return tuple(blocks), restore.to(device)


def _batch_segments(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments of like shape together: whole paths apart from those with a path above them."""
    batches: list[list[Segment]] = []
    own = 0
    for s in sorted(segments, key=lambda s: (s.length < len(s.keys), -len(s.keys), -s.length)):
        size = s.length * len(s.keys)
        if batches:
            last = batches[-1]
            wide = max(s.length, max(x.length for x in last)) * len(last[0].keys) * (len(last) + 1)
            alike = (last[0].length == len(last[0].keys)) == (s.length == len(s.keys))
            if alike and wide <= WASTE * (own + size):
                last.append(s)
                own += size
                continue
        batches.append([s])
        own = size
    return batches


def _make_block(batch: list[Segment], device: torch.device) -> Block:
    longest, widest = max(s.length for s in batch), max(len(s.keys) for s in batch)
    query = torch.zeros(len(batch), longest, dtype=torch.long)
    key = torch.zeros(len(batch), widest, dtype=torch.long)
    above = torch.tensor([len(s.keys) - s.length for s in batch])
    for row, s in enumerate(batch):
        query[row, : s.length] = torch.arange(s.start, s.start + s.length)
        key[row, : len(s.keys)] = s.keys
    depth = above[:, None] + torch.arange(longest)
    causal = bool((above == 0).all())
    return Block(query=query.to(device), key=key.to(device), depth=depth.to(device), causal=causal)
