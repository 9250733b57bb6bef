"""Tiny models of real architectures, with random weights, as folders that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tools.make_arithmetic import character_tokenizer

VOCABULARY = ["<pad>", "<eos>", "<unk>", *"0123456789+-= \nabcdefghijklmnopqrstuvwxyz"]

SMALL: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}

EXTRA: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama_tied": ("LlamaConfig", {"tie_word_embeddings": True, "head_dim": 32}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 16, "sliding_window": 8, "sliding_window_pattern": 2}),
    "gemma2": ("Gemma2Config", {"head_dim": 16, "sliding_window": 8, "final_logit_softcapping": 0.5}),
    "granite": ("GraniteConfig", {"logits_scaling": 3.0}),
    "cohere": ("CohereConfig", {"logit_scale": 0.25}),
    "mistral": ("MistralConfig", {"sliding_window": 8}),
    "gpt2": (
        "GPT2Config",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "resid_pdrop": 0.1, "attn_pdrop": 0.1},
    ),
}
"""Architecture → its configuration class and what it needs beside ``SMALL``."""


def tokenizer(*special: str) -> Any:
    """One token a character, and special tokens."""
    made = character_tokenizer(VOCABULARY)
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


@torch.no_grad()
def far_from_uniform(model: torch.nn.Module, scale: float) -> None:
    """Multiply what is more than a vector, so that distributions differ."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(scale)


def make_model(
    architecture: str,
    folder: Path,
    *,
    seed: int = 0,
    scale: float = 4.0,
    special: tuple[str, ...] = (),
    chat_template: str | None = None,
    **config: Any,
) -> Path:
    """Write a tiny model and its tokenizer; ``scale`` makes its distributions far from uniform.

    Args:
        special: Further special tokens.
        config: Entries of the model's configuration.
    """
    import transformers

    name, extra = EXTRA[architecture]
    arguments = SMALL | extra | {"vocab_size": len(VOCABULARY) + len(special)} | config
    if architecture == "gpt2":
        arguments = {
            k: v
            for k, v in arguments.items()
            if k in {*extra, *config, "vocab_size", "pad_token_id", "eos_token_id", "bos_token_id"}
        }
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**arguments))
    far_from_uniform(model, scale)
    model.save_pretrained(folder)
    tokens = tokenizer(*special)
    tokens.chat_template = chat_template
    tokens.save_pretrained(folder)
    return folder
