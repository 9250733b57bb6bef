"""Decoder layers compiled one by one: each kind of layer once, for all layers of the model and all lengths."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any

import torch
from transformers import Cache

from lgrpo_lightning.policy.cache import DifferentiableCache, LayerCache
from lgrpo_lightning.policy.choice import explain_no_tree
from lgrpo_lightning.policy.flex_attention import allow_graphs
from lgrpo_lightning.policy.head import find_backbone

GRAPHS = 64
"""Graphs that a piece of a layer may have: with gradients or without, with a mask, one row or more, each window."""


def explain_not_compiled(model: Any) -> str | None:
    """Why the layers of ``model`` cannot be compiled; None where they can be tried."""
    if (reason := explain_no_tree(model)) is not None:
        return f"only layers whose attention takes trees are compiled, and {reason}"
    if not getattr(model, "_can_compile_fullgraph", False):
        return f"transformers says that {type(model).__name__} cannot be compiled"
    experts = [p.dtype for name, p in model.named_parameters() if ".experts." in name and p.dim() == 3]
    if set(experts) - {torch.bfloat16} and "grouped_mm" in model.get_experts_implementation().values():
        return (
            f"torch compiles the products of experts (grouped_mm) for weights in bfloat16, and {type(model).__name__} "
            f"has them in {str(experts[0]).removeprefix('torch.')} (policy.dtype: bfloat16)"
        )
    return None


def compile_layers(model: Any) -> None:
    """Compile the decoder layers of ``model`` in place, at their first use; names of weights stay.

    Hooks of FSDP2 and gradient checkpointing stay outside of the graphs.
    """
    allow_graphs(GRAPHS)
    for layer in find_backbone(model).modules():
        if type(layer).__name__.removeprefix("FSDP") in (model._no_split_modules or []):
            # a method, because copies of the model then have their own
            layer.forward = MethodType(run_layer, layer)


def restore_layers(model: Any) -> None:
    """Undo ``compile_layers``."""
    for layer in model.modules():
        if getattr(vars(layer).get("forward"), "__func__", None) is run_layer:
            del layer.forward


def run_layer(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """The layer's forward pass: compiled, except in sampling, whose cache has another length at every token."""
    forward = type(layer).forward
    past = next((value for value in (*args, *kwargs.values()) if isinstance(value, Cache)), None)
    if isinstance(past, DifferentiableCache):
        # code that reads the number of its layer has a graph for each layer
        number = next(m.layer_idx for m in layer.modules() if hasattr(m, "layer_idx"))
        own = LayerCache(past.layers[number])
        args = tuple(own if value is past else value for value in args)  # GPT-2 gives it by position
        kwargs = {name: own if value is past else value for name, value in kwargs.items()}
    elif past is not None:
        return forward(layer, *args, **kwargs)
    return compile_forward(forward)(layer, *args, **kwargs)


@cache
def compile_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass of a kind of layers, whose weights are arguments of its graphs."""
    return torch.compile(forward, dynamic=True)
