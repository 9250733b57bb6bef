"""Truncation of the sampled distribution: temperature, top-k, top-p, min-p."""

from __future__ import annotations

import torch
from torch import Tensor

from lgrpo_lightning.types import Sampling


def truncated_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """``[R, V]`` logits at the temperature, fp32, with -inf on the tokens that may not be drawn.

    The order is that of the field: temperature, then min-p, top-k, top-p. The most probable token always stays.

    >>> truncated_logits(torch.tensor([[2.0, 1.0, 0.0]]), Sampling(top_k=1)).tolist()
    [[2.0, -inf, -inf]]
    """
    logits = logits.float()
    if sampling.temperature not in (0.0, 1.0):
        logits = logits / sampling.temperature
    if not sampling.truncated:
        return logits
    if sampling.min_p > 0:
        floor = logits.amax(-1, keepdim=True) + torch.tensor(sampling.min_p).log().item()
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if 0 < sampling.top_k < logits.shape[-1]:
        floor = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if sampling.top_p < 1:
        ordered, index = logits.sort(-1, descending=True)
        probs = ordered.softmax(-1)
        beyond = probs.cumsum(-1) - probs >= sampling.top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, index, beyond), -torch.inf)
    return logits
