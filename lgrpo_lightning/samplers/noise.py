"""Gumbel-max with noise that depends on (random key, prompt, member, position) alone.

Neither the batch, nor its order, nor the number of ranks changes a draw; only rounding of the logits can, and
Gumbel-max turns a rounding error into another token only where two candidates tie within it.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from lgrpo_lightning.contracts import RandomKey

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def make_row_key(random_key: RandomKey, uid: str, member: int) -> int:
    """A signed 64-bit key for one completion."""
    text = "\x1f".join(map(str, (*random_key, uid, member)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def draw_gumbel(keys: Tensor, position: int, start: int, count: int) -> Tensor:
    """Standard Gumbel noise ``[R, count]`` fp32 for draws ``start … start + count`` of each row at ``position``.

    Counter-based (the finaliser of splitmix64, Steele et al. 2014), so that any draw is computed on its own.

    Args:
        keys: ``[R]`` long, from ``make_row_key``.
    """
    at_position = _mix(keys + torch.full_like(keys, position + 1) * _GOLDEN)
    index = torch.arange(start + 1, start + count + 1, device=keys.device)
    bits = _mix(at_position[:, None] ^ _mix(index * _GOLDEN))
    # 53 bits and half a step: neither 0 nor 1, whose logarithms are infinite
    uniform = (((bits >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53
    return -(-uniform.log()).log().float()


def gumbel_argmax(logits: Tensor, keys: Tensor, position: int) -> tuple[Tensor, Tensor]:
    """Draw one token per row from softmax(logits).

    The vocabulary is cut into about sqrt(V) blocks: a block is drawn by its total mass, then a token inside it.
    That is the same distribution with 2 sqrt(V) numbers of noise a row in place of V.

    Args:
        logits: ``[R, V]`` fp32, of any strides; -inf excludes a token.
        keys: ``[R]`` long.

    Returns:
        (tokens ``[R]`` long, their log-probs ``[R]`` fp32).
    """
    vocabulary = logits.shape[1]
    width = math.isqrt(vocabulary - 1) + 1
    blocks = -(-vocabulary // width)
    mass = _sum_blocks(logits, width)
    block = (mass + draw_gumbel(keys, position, 0, blocks)).argmax(-1)
    index = block[:, None] * width + torch.arange(width, device=logits.device)
    inside = logits.gather(1, index.clamp(max=vocabulary - 1))
    inside = inside.masked_fill(index >= vocabulary, -torch.inf)
    offset = (inside + draw_gumbel(keys, position, blocks, width)).argmax(-1)
    chosen = inside.gather(1, offset[:, None]).squeeze(1)
    return block * width + offset, chosen - mass.logsumexp(-1)


def _sum_blocks(logits: Tensor, width: int) -> Tensor:
    """``[R, blocks]`` logsumexp of each ``width`` columns; the last block may be smaller."""
    full = logits.shape[1] // width
    whole, rest = logits[:, : full * width], logits[:, full * width :]
    mass = whole.reshape(len(logits), full, width).logsumexp(-1)
    return torch.cat([mass, rest.logsumexp(-1, keepdim=True)], dim=1) if rest.shape[1] else mass


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64 (arithmetic wraps; shifts are made logical)."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, by: int) -> Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)
