"""Log-probabilities and entropies of tokens from hidden states, without ever holding ``[N, T, V]`` logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BLOCK = 2**20
"""Numbers of a block of logits on a CPU: 4 MiB."""

Head = Callable[[Tensor], Tensor]
"""Hidden states ``[n, H]`` → logits ``[n, V]``, scaling and soft-capping included."""


def token_logprobs(
    logits: Tensor, targets: Tensor, *, temperature: float = 1.0, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """(log-prob of each target, entropy of each distribution) at ``temperature``; fp32.

    Args:
        logits: ``[n, V]``.
        targets: ``[n]`` long.
        entropy_gradient: Whether entropies carry gradients, too.

    >>> lp, h = token_logprobs(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    >>> round(lp.item(), 4), round(h.item(), 4)
    (-0.6931, 0.6931)
    """
    chosen, entropy = _TokenLogprobs.apply(logits, targets, temperature, False, entropy_gradient)  # type: ignore[no-untyped-call]
    return chosen, entropy


class _TokenLogprobs(torch.autograd.Function):
    """Both in one pass over the logits, keeping the log-normaliser alone.

    On a CPU it works on blocks of rows that stay in the cache. Where the logits are nobody else's (``consume``) the
    gradient is written over them; a head that needs them for its own gradient then fails, as autograd sees it.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, temperature: float, consume: bool, entropy_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        """(log-probs, entropies) ``[n]``."""
        normalizer = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        entropy = torch.empty_like(normalizer)
        for rows in _blocks(logits):
            x = _at(logits[rows], temperature)
            largest = x.amax(-1, keepdim=True)
            weights = (x - largest).exp_()
            mass = weights.sum(-1)
            normalizer[rows] = mass.log() + largest.squeeze(-1)
            entropy[rows] = normalizer[rows] - weights.mul_(x).nan_to_num_(0.0).sum(-1) / mass
        chosen = _at(logits.gather(-1, targets[:, None]).squeeze(-1), temperature) - normalizer
        ctx.temperature, ctx.consume, ctx.entropy_gradient = temperature, consume, entropy_gradient
        ctx.save_for_backward(logits, targets, normalizer, *([entropy] if entropy_gradient else []))
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        return chosen, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, spread: Tensor) -> tuple[Tensor, None, None, None, None]:
        """(1[target] - p) / temperature, times upstream; of entropies -p (log p + entropy) / temperature."""
        logits, targets, normalizer, *entropy = ctx.saved_tensors
        scaled = (upstream / ctx.temperature)[:, None]
        gradient = logits if ctx.consume else torch.empty_like(logits)
        for rows in _blocks(logits):
            log_p = _at(logits[rows], ctx.temperature) - normalizer[rows, None]
            if ctx.entropy_gradient:
                p = log_p.exp()
                of_entropy = (p * (log_p + entropy[0][rows, None])).nan_to_num_(0.0)
                here = p.mul_(-scaled[rows]).sub_(of_entropy.mul_((spread[rows] / ctx.temperature)[:, None]))
            else:
                here = log_p.exp_().mul_(-scaled[rows])
            gradient[rows] = here.scatter_add_(-1, targets[rows, None], scaled[rows])
        return gradient, None, None, None, None


def _at(logits: Tensor, temperature: float) -> Tensor:
    return logits.float() if temperature == 1.0 else logits.float() / temperature


def _blocks(logits: Tensor) -> list[slice]:
    """The rows in blocks of about a million numbers; on a GPU all at once."""
    rows, vocabulary = logits.shape
    step = max(1, BLOCK // vocabulary) if logits.device.type == "cpu" else max(1, rows)
    return [slice(start, start + step) for start in range(0, rows, step)]


def chunked_logprobs(
    hidden: Tensor,
    targets: Tensor,
    head: Head,
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """``token_logprobs`` of ``head(hidden)``, ``chunk`` tokens at a time.

    With more than one chunk the logits of all but the last are recomputed in the backward pass, so that the memory is
    that of one chunk, ``chunk x V`` fp32 numbers, however many tokens there are.

    Args:
        hidden: ``[n, H]`` hidden states at the positions that predict ``targets``.
        targets: ``[n]`` long.
        entropy_gradient: Whether entropies carry gradients, too.

    Returns:
        (log-probs ``[n]``, entropies ``[n]``), fp32.
    """

    def score(h: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        chosen, entropy = _TokenLogprobs.apply(head(h), t, temperature, True, entropy_gradient)  # type: ignore[no-untyped-call]
        return chosen, entropy

    count = -(-len(hidden) // chunk)
    if count <= 1:
        return score(hidden, targets)
    size = -(-len(hidden) // count)  # equal chunks
    parts = []
    for start in range(0, len(hidden), size):
        h, t = hidden[start : start + size], targets[start : start + size]
        last = start + size >= len(hidden)  # its backward comes first
        kept = last or not torch.is_grad_enabled()
        parts.append(score(h, t) if kept else checkpoint(score, h, t, use_reentrant=False))
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
