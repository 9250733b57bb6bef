"""Frozen base models in 4 or 8 bits (QLoRA, arXiv:2305.14314): bitsandbytes keeps the weights, products are plain."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import linear

from lgrpo_lightning.errors import MissingPackageError

Quantization = Literal["nf4", "int8"]

BYTES: dict[str, float] = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
"""Bytes of a weight in a linear layer: 4 bits, a scale of 8 bits for 64 weights, one of 32 bits for 256 scales."""


def make_quantization_config(kind: Quantization, dtype: torch.dtype) -> Any:
    """What ``from_pretrained`` takes to quantise the linear layers as it reads them.

    Raises:
        ImportError: A package is missing.
    """
    if any(find_spec(name) is None for name in ("bitsandbytes", "accelerate")):
        raise MissingPackageError(
            f'policy.quantization is {kind!r}, which needs bitsandbytes: pip install "lgrpo_lightning[quantization]"'
        )
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def prepare_quantised(model: Any) -> None:
    """Make every quantised layer multiply by its dequantised weights, in whatever mode and type the pass is.

    The products of bitsandbytes differ between training and evaluation, and those of 8 bits round the inputs, too, so
    that log-probs would depend on the layout.
    """
    del model.config.quantization_config  # exports and engines are described by the base's own configuration
    for module in model.modules():
        if is_quantised(module):
            if hasattr(module.weight, "SCB"):  # a buffer is moved with its module
                module.register_buffer("scales", module.weight.SCB.float() / 127, persistent=False)
                module.compute_dtype = model.dtype
            kind: Any = type(module)
            module.__class__ = _derive_plain_product(kind)


def is_quantised(module: nn.Module) -> bool:
    """Whether a layer's weights are in 4 or 8 bits."""
    return hasattr(getattr(module, "weight", None), "quant_state") or hasattr(getattr(module, "weight", None), "SCB")


@torch.no_grad()
def dequantise(module: Any, dtype: torch.dtype | None = None) -> Tensor:
    """``[outputs, inputs]`` weights of a quantised layer; by default of the type in which they were read."""
    weight = module.weight
    if hasattr(module, "scales"):
        whole: Tensor = weight.data.float() * module.scales[:, None]
        return whole.to(dtype or module.compute_dtype)
    from bitsandbytes.functional import dequantize_4bit

    whole = dequantize_4bit(weight.data, weight.quant_state)
    return whole.to(dtype or whole.dtype)


def is_transposed(module: Any) -> bool:
    """Whether a quantised layer stands for one whose weights are ``[inputs, outputs]``, as GPT-2's are."""
    return getattr(getattr(module, "source_cls", None), "__name__", "") == "Conv1D"


def count_numbers(parameter: Tensor) -> int:
    """Numbers that a parameter stands for; two of 4 bits share a byte."""
    state = getattr(parameter, "quant_state", None)
    return int(parameter.numel() if state is None else state.shape.numel())


def list_full_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) pairs of the state dict of a model, those of quantised layers as the layers multiply by them."""
    layers = {name: module for name, module in model.named_modules() if is_quantised(module)}
    for name, tensor in model.state_dict().items():
        paths = (name.rpartition(".weight")[0], name.rpartition(".")[0])
        layer = next((path for path in paths if path in layers), None)
        if layer is None or name == f"{layer}.bias":
            yield name, tensor
        elif name == f"{layer}.weight":
            whole = dequantise(layers[layer])
            yield name, whole.T if is_transposed(layers[layer]) else whole


class _Product(Function):
    """``x @ W.T`` that keeps neither x nor the dequantised weights: W is frozen, and made again for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any) -> Tensor:
        ctx.module = module
        return linear(x, dequantise(module, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ dequantise(ctx.module, gradient.dtype), None


@cache
def _derive_plain_product(layer: Any) -> Any:
    """The class of a bitsandbytes layer, with our product."""

    class Quantised(layer):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            device = x.device.type
            if torch.is_autocast_enabled(device):
                x = x.to(torch.get_autocast_dtype(device))
            product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
            return product if self.bias is None else product + self.bias.to(product.dtype)

    return Quantised
