"""What the processes of a run do together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lgrpo_lightning.training.update import Ranks


def ranks(trainer: Any) -> Ranks:
    """The processes of ``trainer``. Decided by its world size, not by whether torch.distributed is initialised."""
    if trainer.world_size == 1:
        return Ranks()

    def reduced(op: str) -> Callable[[Tensor], Tensor]:
        return lambda x: trainer.strategy.reduce(x.clone(), reduce_op=op)

    return Ranks(
        world_size=trainer.world_size,
        sum=reduced("sum"),
        max=reduced("max"),
        gather=lambda value: gathered(trainer, value),
    )


def gathered(trainer: Any, value: Any) -> list[Any]:
    """``value`` of every rank, in order; for small picklable things."""
    if trainer.world_size == 1:
        return [value]
    out: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(out, value)
    return out


def gradient_sync(trainer: Any, policy: Any, sync: bool) -> AbstractContextManager[Any]:
    """Whether the backward pass inside averages gradients over ranks: only the last of an optimizer step does."""
    if isinstance(trainer.model, DistributedDataParallel) and not sync:
        return trainer.model.no_sync()
    if hasattr(policy, "set_requires_gradient_sync"):
        policy.set_requires_gradient_sync(sync)
    return nullcontext()
