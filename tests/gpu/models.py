"""Models with random weights for measuring, without files."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.attention import register_tree_attention

SIZES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
    },
    "1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
    },
}
"""Of Qwen2.5: two key-value heads, tied embeddings, 151,936 ids (tiny: 1,000)."""


def config(size: str) -> Any:
    """The configuration of one of ``SIZES``."""
    from transformers import Qwen2Config

    return Qwen2Config(
        **SIZES[size],
        vocab_size=1000 if size == "tiny" else 151936,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=32768,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )


def policy(size: str, device: str, *, dtype: str = "bfloat16", **options: Any) -> Policy:
    """A policy of that shape on the device."""
    settings = PolicyConfig(path=size, dtype=dtype, verify=False, **options)
    with patch("lgrpo_lightning.policy.policy.load_model", lambda made, **_: model(size, device, made)):
        return Policy(settings)


def model(size: str, device: str, settings: PolicyConfig) -> Any:
    """The causal LM in training mode."""
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        made = Qwen2ForCausalLM._from_config(
            config(size),
            attn_implementation=register_tree_attention(settings.attn_implementation),
            dtype=getattr(torch, settings.dtype),
        )
    return made.train()


def rows(prompts: int, prompt: int, completion: int, group: int, vocabulary: int) -> Any:
    """Groups of random tokens that share their prompt alone: (prompts, completions), one a row."""
    rng = random.Random(0)
    draw = lambda n: [rng.randrange(2, vocabulary) for _ in range(n)]  # noqa: E731
    heads = [draw(prompt) for _ in range(prompts)]
    return [p for p in heads for _ in range(group)], [draw(completion) for _ in range(prompts * group)]


class Clock:
    """Seconds between events on the device."""

    def __init__(self, device: str) -> None:
        self.device = device

    def now(self) -> float:
        """The time once all work under way is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


@contextmanager
def peak_memory(found: dict[str, Any], device: str) -> Any:
    """Put the most GiB that were taken into ``found``; nothing on a CPU."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield
    if device == "cuda":
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
