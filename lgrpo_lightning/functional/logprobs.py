"""Log-probabilities and entropies of tokens from hidden states, without ever holding ``[N, T, V]`` logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
"""Hidden states ``[n, H]`` → logits ``[n, V]``, scaling and soft-capping included."""


def token_logprobs(logits: Tensor, targets: Tensor, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(log-prob of each target, entropy of each distribution) at ``temperature``; fp32.

    Args:
        logits: ``[n, V]``.
        targets: ``[n]`` long.

    >>> lp, h = token_logprobs(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    >>> round(lp.item(), 4), round(h.item(), 4)
    (-0.6931, 0.6931)
    """
    logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    normalizer = logits.logsumexp(-1)
    chosen = logits.gather(-1, targets[:, None]).squeeze(-1) - normalizer
    with torch.no_grad():
        probs = (logits - normalizer[:, None]).exp_()
        entropy = normalizer - (probs * logits).nan_to_num_(0.0).sum(-1)
    return chosen, entropy


def chunked_logprobs(
    hidden: Tensor, targets: Tensor, head: Head, *, temperature: float = 1.0, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """``token_logprobs`` of ``head(hidden)``, ``chunk`` tokens at a time.

    With more than one chunk the logits are recomputed in the backward pass, so that the memory is that of one
    chunk, ``chunk x V`` fp32 numbers, however many tokens there are.

    Args:
        hidden: ``[n, H]`` hidden states at the positions that predict ``targets``.
        targets: ``[n]`` long.

    Returns:
        (log-probs ``[n]``, entropies ``[n]`` without gradient), fp32.
    """

    def scored(h: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(head(h), t, temperature=temperature)

    if len(hidden) <= chunk:
        return scored(hidden, targets)
    parts = [
        checkpoint(scored, h, t, use_reentrant=False) if torch.is_grad_enabled() else scored(h, t)
        for h, t in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
