"""The language-model head on hidden states, with the scaling and soft-capping that the model applies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def backbone(model: Any) -> nn.Module:
    """The part of a causal LM that gives the last hidden states."""
    body: nn.Module = model.get_decoder()
    if body is model:  # Llama 4 names it otherwise
        body = getattr(model, "model", model)
    if body is model:
        raise ValueError(
            f"{type(model).__name__} has no separate backbone; causal language models with a head do."
        )
    return body


def head_logits(model: Any, hidden: Tensor) -> Tensor:
    """``[n, H]`` hidden states → ``[n, V]`` logits, equal to the model's own.

    Cohere multiplies by ``logit_scale``, Granite divides by ``logits_scaling``, Gemma and RecurrentGemma soft-cap.
    """
    logits: Tensor = model.get_output_embeddings()(hidden)
    config = model.config.get_text_config()
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (scaling := getattr(config, "logits_scaling", None)) is not None:
        logits = logits * scaling if config.model_type.startswith("hyperclovax") else logits / scaling
    cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


@torch.no_grad()
def verify_head(model: Any, input_ids: Tensor, *, tolerance: float) -> float:
    """Compare ``head_logits`` with the model's own logits on a few tokens; the largest difference.

    Args:
        input_ids: ``[1, n]``.
        tolerance: Largest difference allowed, relative to the largest logit.

    Raises:
        RuntimeError: They differ: the model transforms its logits in a way that is not known here.
    """
    own = model(input_ids=input_ids, use_cache=False).logits[0].float()
    hidden = backbone(model)(input_ids=input_ids, use_cache=False).last_hidden_state[0]
    ours = head_logits(model, hidden).float()
    difference: float = (own - ours).abs().max().item()
    if difference > tolerance * max(1.0, own.abs().max().item()):
        raise RuntimeError(
            f"{type(model).__name__}: logits from hidden states differ from the model's own by {difference:.3g} "
            f"(first token: {ours[0, :3].tolist()} against {own[0, :3].tolist()}). The model transforms its logits "
            "after the head in a way this library does not know, so its log-probs would be wrong. Please report the "
            f"model type {model.config.model_type!r}."
        )
    return difference
