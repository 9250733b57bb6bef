"""Truncation of the sampled distribution: temperature, top-k, top-p, min-p."""

from __future__ import annotations

from torch import Tensor

from lgrpo_lightning.types import Sampling


def truncated_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """``[R, V]`` logits at the temperature, fp32, with -inf on the tokens that may not be drawn.

    The most probable token always stays.

    >>> import torch
    >>> truncated_logits(torch.tensor([[2.0, 1.0, 0.0]]), Sampling(top_k=1)).tolist()
    [[2.0, -inf, -inf]]
    """
    from transformers.generation import logits_process

    logits = logits.float()
    if sampling.temperature not in (0.0, 1.0):
        logits = logits / sampling.temperature
    if sampling.min_p > 0:  # before top-p, as in vLLM: the warpers of `generate` have it last
        logits = logits_process.MinPLogitsWarper(sampling.min_p)(None, logits)
    if sampling.top_k > 0:
        logits = logits_process.TopKLogitsWarper(sampling.top_k)(None, logits)
    if sampling.top_p < 1:
        logits = logits_process.TopPLogitsWarper(sampling.top_p)(None, logits)
    return logits
