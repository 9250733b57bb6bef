"""The load-balancing loss of mixture-of-experts models."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.errors import UserError

TAKES = ("gate_logits", "num_experts", "top_k", "attention_mask")
"""Arguments of the load-balancing losses that are computed here."""


def check_router(model: Any) -> None:
    """Refuse a model that has no load-balancing loss, or one of another kind."""
    loss = _find_loss(model)
    if loss is None or _count_experts(model) is None:
        raise UserError(
            f"objective.router_aux_coef is above 0, but {type(model).__name__} has no load-balancing loss in "
            "transformers: it has no experts, or balances them in another way. Set objective.router_aux_coef: 0."
        )
    if tuple(takes := inspect.signature(loss).parameters) != TAKES:
        raise UserError(
            f"objective.router_aux_coef is above 0, but the load-balancing loss of {type(model).__name__} is of a "
            f"kind of its own (it takes {', '.join(takes)}). Set objective.router_aux_coef: 0."
        )


def compute_router_loss(model: Any, output: Any, attention_mask: Any) -> Tensor:
    """The model's own load-balancing loss over the tokens of one pass, as transformers computes it.

    Args:
        output: Of the backbone, with ``router_logits``.
        attention_mask: ``[N, L]``, or anything else for none.

    Raises:
        ValueError: The pass gave no router logits.
    """
    logits, experts = getattr(output, "router_logits", None), _count_experts(model)
    if not logits or experts is None:
        raise UserError(
            f"objective.router_aux_coef is above 0, but {type(model).__name__} gives no router logits here. Set "
            "objective.router_aux_coef: 0."
        )
    two = isinstance(attention_mask, Tensor) and attention_mask.dim() == 2
    loss = _find_loss(model)(logits, *experts, attention_mask if two else None)
    return loss if isinstance(loss, Tensor) else torch.zeros((), device=model.device)


def _find_loss(model: Any) -> Any:
    # each model file of transformers has a function of its own, which its forward pass calls
    return getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)


def _count_experts(model: Any) -> tuple[int, int] | None:
    """(experts, those of them that a token goes through), of the language model; None where it has none."""
    for owner in (model, model.config.get_text_config()):
        experts, chosen = (getattr(owner, name, None) for name in ("num_experts", "num_experts_per_tok"))
        if experts is not None and chosen is not None:
            return int(experts), int(chosen)
    return None
