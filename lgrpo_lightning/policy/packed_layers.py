"""Linear layers with weights in the order that oneDNN reads fastest: a few rows a step, on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 8
"""The order is chosen for so many rows; products of any number of rows take it."""


@contextmanager
def pack_linear_layers(model: nn.Module) -> Iterator[None]:
    """Inside, fp32 linear layers on a CPU multiply by a packed copy of their weights; other layers are left alone.

    ``F.linear`` calls MKL, which is up to five times slower than oneDNN at 4 to 32 rows on processors that are not
    Intel's. The copies take as much memory as the weights, and the time of about four decoding steps. There are no
    gradients, and the weights must not change inside.
    """
    layers: list[Any] = []
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if available and not torch.is_autocast_enabled("cpu"):
        layers = [module for module in model.modules() if _can_be_packed(module)]
    try:
        for module in layers:
            weight = module.weight.detach()
            rows = weight if type(module) is nn.Linear else weight.T.contiguous()  # GPT-2's are [inputs, outputs]
            order = torch.ops.mkldnn._reorder_linear_weight(rows, ROWS)
            module.forward = partial(_multiply, order, module.bias)  # in place of the class's
        yield
    finally:
        for module in layers:
            vars(module).pop("forward", None)


def _can_be_packed(module: Any) -> bool:
    from transformers.pytorch_utils import Conv1D

    if type(module) not in (nn.Linear, Conv1D) or "forward" in vars(module):  # somebody's own, or packed already
        return False
    weight = module.weight
    return type(weight.data) is Tensor and weight.dtype == torch.float32 and weight.device.type == "cpu"


def _multiply(packed: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product
