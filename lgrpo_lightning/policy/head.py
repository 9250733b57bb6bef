"""The language-model head on hidden states, with the scaling and soft-capping that the model applies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lgrpo_lightning.errors import UserError


def find_backbone(model: Any) -> nn.Module:
    """The part of a causal LM that gives the last hidden states."""
    head = model.get_output_embeddings()
    body: Any = model.get_decoder()
    if body is model or body is head:  # Llama 4 and ModernBERT name it otherwise
        body = getattr(model, "model", model)
    if body is None or head is None or body is model:
        raise UserError(
            f"{type(model).__name__} has no separate backbone and head; causal language models do, and those of text "
            "and images."
        )
    inner = getattr(body, "get_output_embeddings", lambda: None)()
    return body if inner is None else find_backbone(body)  # a causal LM inside a multimodal model


UNSCALED = ("aya_vision", "cohere2_vision")
"""Multimodal models that leave the scale of their language model out."""


def compute_logits(model: Any, hidden: Tensor) -> Tensor:
    """``[n, H]`` hidden states → ``[n, V]`` logits, equal to the model's own.

    Inkling divides hidden states by ``logits_mup_width_multiplier``; Cohere multiplies by ``logit_scale``, Muse by
    ``output_multiplier``; Granite divides by ``logits_scaling``; Gemma and RecurrentGemma soft-cap.
    """
    config = model.config.get_text_config()
    if (width := getattr(config, "logits_mup_width_multiplier", None)) is not None:
        hidden = hidden / width
    head = model.get_output_embeddings()
    if head is getattr(model, "decoder", None) and hasattr(model, "lm_head"):  # ModernBERT's layer before it
        hidden = model.lm_head(hidden)
    logits: Tensor = head(hidden)
    if (multiplier := getattr(config, "output_multiplier", None)) is not None:
        logits = logits * multiplier
    scale = getattr(config, "logit_scale", None)
    if scale is not None and model.config.model_type not in UNSCALED:
        logits = logits * scale
    if (scaling := getattr(config, "logits_scaling", None)) is not None:
        logits = logits * scaling if config.model_type.startswith("hyperclovax") else logits / scaling
    cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
