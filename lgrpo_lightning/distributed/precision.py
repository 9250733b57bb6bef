"""``trainer.precision``: which types weights, matrix products and everything else have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.nn import Parameter
from torch.optim import Optimizer

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy import PolicyConfig

SUPPORTED = ("32-true", "bf16-mixed", "bf16-true", "16-mixed")
ALIASES = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}
"""Lightning's short forms."""

ENOUGH = 0.5
"""Share of the weights that a step has to move; below it, training mostly stands still."""


class Bf16Weights(Precision):
    """``bf16-true``: weights in bf16, all else in the type it is made in.

    Lightning's own makes bf16 the default type of every tensor of a step, rewards, advantages and counts included,
    and casts the model's rotary frequencies.
    """

    precision = "bf16-true"


def check_precision(precision: Any, *, sharded: bool, gpu: bool) -> None:
    """Refuse a ``trainer.precision`` that cannot work, with FSDP2 (``sharded``) or without a GPU."""
    name = ALIASES.get(str(precision), str(precision))
    reason = None
    if name == "16-true":
        reason = "whose gradients vanish in 16 bits, for nothing scales them. Use 16-mixed or bf16-true"
    elif name not in SUPPORTED:
        reason = f"which is not supported here. Use one of: {', '.join(SUPPORTED)}"
    elif name == "16-mixed" and sharded:
        reason = "which fsdp2 cannot scale gradients for. Use bf16-mixed, or trainer.strategy: ddp"
    elif name == "16-mixed" and not gpu:
        reason = "which needs a GPU; Lightning would put bf16-mixed in its place. Use bf16-mixed"
    if reason:
        raise UserError(f"trainer.precision is {str(precision)!r}, {reason}.")


def choose_weights_type(precision: str, config: PolicyConfig) -> PolicyConfig:
    """``config`` with the type of weights that ``precision`` asks for; an error where ``policy.dtype`` is another."""
    if precision == "bf16-true":
        if config.dtype == "float16":
            raise UserError(
                "policy.dtype is 'float16', but trainer.precision 'bf16-true' keeps the weights in bfloat16. Leave "
                "policy.dtype out."
            )
        return replace(config, dtype="bfloat16")
    if precision.endswith("-mixed") and config.dtype != "float32":
        raise UserError(
            f"policy.dtype is {config.dtype!r}, but trainer.precision {precision!r} computes in 16 bits on weights "
            "kept in float32. Use policy.dtype: float32, or trainer.precision: bf16-true for weights in bfloat16."
        )
    return config


def settle_precision(trainer: Any, config: PolicyConfig) -> PolicyConfig:
    """Check ``trainer.precision`` against strategy and policy, and put ``Bf16Weights`` where it is bf16-true.

    Returns:
        ``config`` with the type of the weights.
    """
    sharded = isinstance(trainer.strategy, ModelParallelStrategy)
    if config.quantization and sharded:
        raise UserError(
            f"policy.quantization is {config.quantization!r}, and trainer.strategy fsdp2 divides weights over ranks, "
            "which quantised ones cannot be: their scales belong to whole layers. Use trainer.strategy: ddp, or "
            "quantization: null."
        )
    check_precision(trainer.precision, sharded=sharded, gpu=True)
    settled = choose_weights_type(trainer.precision, config)
    if trainer.state.fn == "fit" and settled.dtype == "float16":
        raise UserError(
            "policy.dtype is 'float16': updates of such weights vanish in 16 bits. Use policy.dtype: float32 with "
            "trainer.precision: 16-mixed (or bf16-mixed), or bfloat16."
        )
    if trainer.precision == "bf16-true":
        trainer.strategy.precision_plugin = Bf16Weights()
    return settled


def check_optimizer(precision: str, optimizer: Optimizer) -> None:
    """Refuse a fused optimizer under 16-mixed: it takes the scale off the gradients after they were clipped."""
    if precision == "16-mixed" and optimizer.defaults.get("fused"):
        raise UserError(
            f"{type(optimizer).__name__} with fused: true does not fit trainer.precision '16-mixed': gradients could "
            "not be clipped. Use fused: false, or trainer.precision: bf16-mixed."
        )


@torch.no_grad()
def measure_moved_share(parameters: Iterable[Parameter], step: float) -> float:
    """Share of the weights that change when ``step`` is added to them in their own type; AdamW moves by about lr.

    >>> weights = Parameter(torch.tensor([1.0, 0.25, 0.001], dtype=torch.bfloat16))
    >>> round(measure_moved_share([weights], 0.001), 2)
    0.67
    """
    moved, count = 0, 0
    for parameter in parameters:
        local: Any = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        weights = local.detach().flatten()
        weights = weights[:: max(1, len(weights) // 10_000)]
        moved += int((weights + step != weights).sum())
        count += len(weights)
    return moved / max(count, 1)


def explain_small_step(parameters: Iterable[Parameter], rate: float) -> str | None:
    """What to say where the highest learning rate is too small for the type of the weights; None where it is not."""
    trained = list(parameters)
    if all(p.dtype == torch.float32 for p in trained):
        return None
    share = measure_moved_share(trained, rate)
    if share >= ENOUGH:
        return None
    enough = next((r for k in range(1, 60) if measure_moved_share(trained, r := rate * 2**k) >= ENOUGH), None)
    larger = f", or a learning rate of about {enough:.1e}" if enough else ""
    return (
        f"A step of the learning rate {rate:g} changes about {share:.0%} of the weights: bfloat16 rounds it away on "
        f"the others. Use trainer.precision: bf16-mixed (policy.dtype: float32){larger}."
    )
