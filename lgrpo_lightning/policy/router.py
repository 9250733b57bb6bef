"""The load-balancing loss of mixture-of-experts models."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor


def check_router(model: Any) -> None:
    """Refuse a model that has no load-balancing loss.

    Raises:
        ValueError: With the reason.
    """
    if _function(model) is None or not hasattr(model, "num_experts"):
        raise ValueError(
            f"objective.router_aux_coef is above 0, but {type(model).__name__} has no load-balancing loss in "
            "transformers: it has no experts, or balances them in another way. Set objective.router_aux_coef: 0."
        )


def router_loss(model: Any, output: Any, attention_mask: Any) -> Tensor:
    """The model's own load-balancing loss over the tokens of one pass, as transformers computes it.

    Args:
        output: Of the backbone, with ``router_logits``.
        attention_mask: ``[N, L]``, or anything else for none.

    Raises:
        ValueError: The pass gave no router logits.
    """
    logits = getattr(output, "router_logits", None)
    if not logits:
        raise ValueError(
            f"objective.router_aux_coef is above 0, but {type(model).__name__} gives no router logits here. Set "
            "objective.router_aux_coef: 0."
        )
    two = isinstance(attention_mask, Tensor) and attention_mask.dim() == 2
    loss = _function(model)(
        logits, model.num_experts, model.num_experts_per_tok, attention_mask if two else None
    )
    return loss if isinstance(loss, Tensor) else torch.zeros((), device=model.device)


def _function(model: Any) -> Any:
    return getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
