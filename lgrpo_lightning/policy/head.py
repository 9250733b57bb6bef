"""The language-model head on hidden states, with the scaling and soft-capping that the model applies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lgrpo_lightning.errors import UserError


def backbone(model: Any) -> nn.Module:
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
    return body if inner is None else backbone(body)  # a causal LM inside a multimodal model


UNSCALED = ("aya_vision", "cohere2_vision")
"""Multimodal models that leave the scale of their language model out."""


def takes_wide_product(model: Any) -> bool:
    """Whether ``weight @ hidden.T`` is the faster way to logits, from ``WIDE`` rows: on a CPU, of a plain head."""
    head = model.get_output_embeddings()
    plain = type(head) is nn.Linear and type(head.weight.data) is Tensor and head.weight.device.type == "cpu"
    text_alone = model.config.get_text_config() is model.config
    return plain and text_alone and not torch.is_autocast_enabled("cpu")


WIDE = 8
"""Rows from which the wide product pays, and a multiple of which its kernels like best."""


def head_logits(model: Any, hidden: Tensor, *, wide: bool = False) -> Tensor:
    """``[n, H]`` hidden states → ``[n, V]`` logits, equal to the model's own.

    Inkling divides hidden states by ``logits_mup_width_multiplier``; Cohere multiplies by ``logit_scale``, Muse by
    ``output_multiplier``; Granite divides by ``logits_scaling``; Gemma and RecurrentGemma soft-cap.

    Args:
        wide: Compute them as ``[V, n]``; the answer is a view of that.
    """
    config = model.config.get_text_config()
    if (width := getattr(config, "logits_mup_width_multiplier", None)) is not None:
        hidden = hidden / width
    head = model.get_output_embeddings()
    if head is getattr(model, "decoder", None) and hasattr(model, "lm_head"):  # ModernBERT's layer before it
        hidden = model.lm_head(hidden)
    logits: Tensor = _wide(head, hidden) if wide else head(hidden)
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


def _wide(head: nn.Linear, hidden: Tensor) -> Tensor:
    product = head.weight @ hidden.T
    return (product if head.bias is None else product + head.bias[:, None]).T


@torch.no_grad()
def verify_head(model: Any, input_ids: Tensor, *, tolerance: float) -> float:
    """Compare ``head_logits`` with the model's own logits on a few tokens; the largest difference.

    Args:
        input_ids: ``[1, n]``.
        tolerance: Largest difference allowed, relative to the largest logit.

    Raises:
        RuntimeError: They differ: the model transforms its logits in a way that is not known here.
    """
    own = _own_logits(model, input_ids)
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]  # given, as in every pass
    found = backbone(model)(input_ids=input_ids, position_ids=positions, use_cache=False)
    ours = head_logits(model, found.last_hidden_state[0]).float()
    difference, allowed = _compare(own, ours, tolerance)
    if difference > allowed:
        raise UserError(
            f"{type(model).__name__}: logits from hidden states differ from the model's own by {difference:.3g} "
            f"(first token: {ours[0, :3].tolist()} against {own[0, :3].tolist()}). The model transforms its logits "
            "after the head, or counts positions, in a way this library does not know, so its log-probs would be "
            f"wrong. Please report the model type {model.config.model_type!r}."
        )
    return difference


@torch.no_grad()
def verify_causal(model: Any, input_ids: Tensor, *, tolerance: float) -> None:
    """Refuse a model in which a token sees those after it, as in an encoder: it has no log-probs of a next token.

    Args:
        input_ids: ``[1, n]``.
        tolerance: Largest difference allowed, relative to the largest logit.

    Raises:
        RuntimeError: Another last token changes logits before it.
    """
    changed = input_ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % model.get_input_embeddings().weight.shape[0]
    own, other = (_own_logits(model, ids)[:-1] for ids in (input_ids, changed))
    difference, allowed = _compare(own, other, tolerance) if len(own) else (0.0, 0.0)
    if difference > allowed:
        raise UserError(
            f"{type(model).__name__} is bidirectional: another last token changes what it says of the tokens before. "
            "It is an encoder, not a causal language model, and cannot be trained to continue a prompt."
        )


def _own_logits(model: Any, input_ids: Tensor) -> Tensor:
    """``[n, V]`` fp32, by the model's own forward."""
    logits: Tensor = model(input_ids=input_ids, use_cache=False).logits[0]
    if not bool((logits < torch.inf).all()):  # -inf stands for tokens that a model never draws
        raise UserError(
            f"{type(model).__name__} gives NaN or infinity for logits, though its weights are finite: numbers "
            f"overflow in {logits.dtype}. Use policy.dtype: float32 or bfloat16 (trainer.precision: bf16-mixed)."
        )
    return logits.float()


def _compare(own: Tensor, other: Tensor, tolerance: float) -> tuple[float, float]:
    """(the largest difference, the largest that is allowed)."""
    return float((own - other).abs().max()), tolerance * max(1.0, float(own.abs().max()))
