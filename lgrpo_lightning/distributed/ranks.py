"""What the processes of a run do together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes of a run: the sum and the largest of a number over them, and the list of every one's value."""

    world_size: int = 1
    sum: Callable[[Tensor], Tensor] = lambda value: value
    max: Callable[[Tensor], Tensor] = lambda value: value
    gather: Callable[[Any], list[Any]] = lambda value: [value]


@dataclass(frozen=True, kw_only=True)
class DataRank:
    """This process among those that have prompts of their own: all, or one in each group of tensor parallelism.

    Attributes:
        rank, size: Which one it is, of how many.
        group: Their process group; None is that of all.
        first: Whether it is the first of its tensor group, whose ranks all have the same prompts.
    """

    rank: int
    size: int
    group: Any = None
    first: bool = True


def find_tensor_mesh(strategy: Any) -> Any:
    """The device mesh of tensor parallelism, or None where there is none."""
    if not isinstance(strategy, ModelParallelStrategy) or strategy.device_mesh["tensor_parallel"].size() == 1:
        return None
    return strategy.device_mesh["tensor_parallel"]


def find_data_rank(trainer: Any) -> DataRank:
    """This process of ``trainer`` as far as data are concerned."""
    tensor = find_tensor_mesh(trainer.strategy)
    if tensor is None:
        return DataRank(rank=trainer.global_rank, size=trainer.world_size)
    data = trainer.strategy.device_mesh["data_parallel"]
    return DataRank(
        rank=data.get_local_rank(), size=data.size(), group=data.get_group(), first=tensor.get_local_rank() == 0
    )


def find_ranks(trainer: Any) -> Ranks:
    """The processes of ``trainer``. Decided by its world size, not by whether torch.distributed is initialised.

    Sums are over those that have data of their own.
    """
    if trainer.world_size == 1:
        return Ranks()
    data = find_data_rank(trainer)

    def make_reduce(op: str, group: Any = None) -> Callable[[Tensor], Tensor]:
        # reduce works in place
        return lambda x: trainer.strategy.reduce(x.clone(), group=group, reduce_op=op)

    return Ranks(
        world_size=data.size,
        sum=make_reduce("sum", data.group),
        max=make_reduce("max"),
        gather=lambda value: gather(trainer, value),
    )


def gather(trainer: Any, value: Any) -> list[Any]:
    """``value`` of every rank, in order; for small picklable things."""
    if trainer.world_size == 1:
        return [value]
    out: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(out, value)
    return out


def gather_data_ranks(trainer: Any, value: Any) -> list[Any]:
    """``value`` of every rank that has data of its own, in order."""
    tensor = find_tensor_mesh(trainer.strategy)
    # the ranks of a tensor group follow one another and have the same data
    return gather(trainer, value)[:: 1 if tensor is None else tensor.size()]


def share(trainer: Any, value: Callable[[], Any]) -> Any:
    """``value()``, the same on all ranks of a tensor group: its first one asks for it, and hands it on. Collective."""
    tensor = find_tensor_mesh(trainer.strategy)
    if tensor is None:
        return value()
    box = [value() if tensor.get_local_rank() == 0 else None]
    torch.distributed.broadcast_object_list(box, group=tensor.get_group(), group_src=0)
    return box[0]


def set_gradient_sync(trainer: Any, policy: Any, sync: bool) -> AbstractContextManager[Any]:
    """Whether the backward pass inside averages gradients over ranks: only the last of an optimizer step does."""
    if isinstance(trainer.model, DistributedDataParallel) and not sync:
        return trainer.model.no_sync()
    if hasattr(policy, "set_requires_gradient_sync"):
        policy.set_requires_gradient_sync(sync)
    return nullcontext()
