"""Merges an adapter into the weights of its model, and checks the result."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.lora import ADAPTER, disable_adapter, is_adapter_weight, list_lora_layers
from lgrpo_lightning.policy.quantization import is_transposed, list_full_weights

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Largest difference of logits, relative to the largest, by type of the weights; 5e-2 for shorter ones."""


def find_base_name(name: str) -> str:
    """The name of a weight in the model without an adapter.

    >>> find_base_name("layers.0.mlp.experts.base_layer.base_layer.down_proj")
    'layers.0.mlp.experts.down_proj'
    """
    return re.sub(r"\.base_layer(?=\.)", "", name)


def list_base_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name in the base model, weight without the adapter) pairs; quantised weights come dequantised."""
    for name, tensor in list_full_weights(model):
        if not is_adapter_weight(name):
            yield find_base_name(name), tensor


def merge_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name in the base model, weight with its adapter added) pairs; the model itself stays as it is.

    Of linear layers, embeddings and parameters (the experts of a mixture) alike.
    """
    layers = find_adapted_weights(model)
    for name, tensor in list_base_weights(model):
        for layer in layers.get(name, ()):
            delta = layer.get_delta_weight(ADAPTER)
            tensor = tensor + (delta.T if is_transposed(layer.base_layer) else delta).to(tensor.dtype)
        yield name, tensor


def find_adapted_weights(model: Any) -> dict[str, list[Any]]:
    """Name of a weight in the base model → the adapter's layers that change it."""
    layers: dict[str, list[Any]] = {}
    for path, layer in list_lora_layers(model).items():
        leaf = getattr(layer, "parameter_name", "weight")
        layers.setdefault(f"{find_base_name(f'{path}.')}{leaf}", []).append(layer)
    return layers


def unties(model: Any) -> bool:
    """Whether the adapter makes weights differ that are tied in the base: embeddings and head."""
    tied = find_tied_weights(model)
    return any(name in pair for name in find_adapted_weights(model) for pair in tied.items())


def find_tied_weights(model: Any) -> dict[str, str]:
    """Name of a tied weight in the base model → the one it is tied to."""
    return {find_base_name(a): find_base_name(b) for a, b in dict(model.all_tied_weights_keys or {}).items()}


def check_names(model: Any, names: set[str]) -> None:
    """Refuse merged weights that are not those of the base model."""
    with torch.device("meta"):
        there = set(type(model)(deepcopy(model.config)).state_dict())
    if lacking := sorted(there - names):
        raise UserError(f"Merging the adapter lost {len(lacking)} weights, such as {lacking[0]}.")
    if extra := sorted(names - there):
        raise UserError(f"Merging the adapter made {len(extra)} weights of no base model, such as {extra[0]}.")


@torch.no_grad()
def check_merged(model: Any, merged: Mapping[str, Tensor]) -> float:
    """Compare logits of merged weights with those of the model and its adapter; the largest difference.

    Args:
        merged: Name in the base model → weight; all of them.

    Raises:
        RuntimeError: They differ by more than rounding.
    """
    weight = model.get_input_embeddings().weight
    live = {name for name in model.state_dict() if not is_adapter_weight(name)}
    ids = torch.arange(1, 9, device=weight.device)[None] % weight.shape[0]
    was_training = model.training
    model.eval()
    try:
        expected = model(input_ids=ids, use_cache=False).logits.float()
        placed = {name: merged[find_base_name(name)].to(weight.device) for name in live}
        with disable_adapter(model):
            inputs = {"input_ids": ids, "use_cache": False}
            # untied, as the adapter may have made head and embeddings differ
            logits = functional_call(model, placed, kwargs=inputs, tie_weights=False).logits.float()
    finally:
        model.train(was_training)
    difference = float((logits - expected).abs().max())
    allowed = TOLERANCE.get(weight.dtype, 5e-2) * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise UserError(
            f"The merged weights give other logits than the model with its adapter: they differ by {difference:.3g} "
            f"(allowed {allowed:.1g}). Nothing was written; export the adapter alone (--adapter, adapter: true)."
        )
    return difference
