"""The options of sampling, and the distribution that they make of a model's logits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from lgrpo_lightning.errors import listed, require


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Options of sampling. The sampler, the policy and validation share one instance.

    Args:
        temperature: Logits are divided by it, in the sampler and in the policy's log-probs alike.
            0 is greedy decoding (validation only).
        top_p: Keep the smallest set of tokens whose probability reaches ``top_p``; 1 keeps all.
        top_k: Keep the ``top_k`` most probable tokens; 0 keeps all.
        min_p: Keep tokens at least ``min_p`` times as probable as the most probable one; 0 keeps all.
        max_new_tokens: Longest completion, in tokens.
        stop: Strings that end a completion when its text contains one; special tokens count as text here. It
            stays in the text.
        strip_special_tokens: What of a completion rewards and segmenters do not see: "end" strips end-of-sequence
            and padding tokens, so that tags such as ``<think>`` are seen where they are special tokens; "all"
            strips every special token, "none" keeps all.

    Raises:
        ValueError: An argument is out of range; the message says which and what is possible.

    >>> Sampling(temperature=0.7).greedy.temperature
    0.0
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    strip_special_tokens: Literal["end", "all", "none"] = "end"

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", listed("sampling.stop", self.stop))
        require(
            "sampling.",
            vars(self),
            (0 <= self.temperature < math.inf, "temperature", "at least 0 (0 is greedy)"),
            (0 < self.top_p <= 1, "top_p", "above 0 and at most 1 (1 keeps every token)"),
            (self.top_k >= 0, "top_k", "at least 0 (0 keeps every token)"),
            (0 <= self.min_p <= 1, "min_p", "between 0 and 1 (0 keeps every token)"),
            (self.max_new_tokens >= 1, "max_new_tokens", "at least 1"),
            (all(self.stop), "stop", "a list of non-empty strings"),
            (self.strip_special_tokens in ("end", "all", "none"), "strip_special_tokens", "'end', 'all' or 'none'"),
        )

    @property
    def greedy(self) -> Sampling:
        """These options at temperature 0, without truncation of the distribution."""
        return replace(self, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)

    @property
    def truncated(self) -> bool:
        """Whether options such as ``top_p`` truncate the policy's distribution."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


def truncate_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """``[R, V]`` logits at the temperature, fp32, with -inf on the tokens that may not be drawn.

    The most probable token always stays.

    >>> import torch
    >>> truncate_logits(torch.tensor([[2.0, 1.0, 0.0]]), Sampling(top_k=1)).tolist()
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
