"""Sharded weights: gathers them and shards them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributed.fsdp import FSDPModule


@dataclass(frozen=True, kw_only=True)
class Division:
    """How a policy is divided.

    Attributes:
        mesh: The device mesh of the tensor group.
        partial: Names of the parameters whose gradient is a sum over the group.
    """

    mesh: Any
    partial: frozenset[str]


@contextmanager
def unshard(policy: Any) -> Iterator[None]:
    """Gather all weights on every rank, so that code inside needs no collectives; does nothing if they are not sharded.

    Under tensor parallelism each has its own part of the layers, and every forward pass is a collective of the group.
    """
    modules: list[Any] = [m for m in policy.modules() if isinstance(m, FSDPModule)]
    if modules:
        policy.touch()  # makes the policy the root, before any part of it runs alone
    for module in modules:
        # else the first forward pass inside frees them again
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.reshard()
            # the root keeps its weights: the backward pass needs them at once
            module.set_reshard_after_forward(module is not policy, recurse=False)


def reshard(policy: Any) -> None:
    """Free the weights that a forward pass gathered, so that parameters are shards again; local."""
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gather_whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor on every rank (collective); return any other tensor unchanged."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def divide_like(parameter: Any, value: Tensor) -> Any:
    """Shard a full tensor like ``parameter``, with its type and device."""
    value = value.to(device=parameter.device, dtype=parameter.dtype)
    if not hasattr(parameter, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


def take_part(tensor: Any) -> Tensor:
    """This rank's part of a tensor; it shares memory with the tensor."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "full_tensor") else tensor
    return part


def join_parts(parameter: Any, part: Tensor) -> Tensor:
    """The full tensor of which every rank has a ``part``, sharded like ``parameter``. Collective."""
    if not hasattr(parameter, "full_tensor"):
        return part
    from torch.distributed.tensor import DTensor

    shape = {"shape": parameter.shape, "stride": parameter.stride()}
    here = part.to(parameter.device)
    return gather_whole(DTensor.from_local(here, parameter.device_mesh, parameter.placements, **shape))


def is_divided(parameter: Any) -> bool:
    """Whether a rank of the tensor group has only a part of it; the last dimension of its mesh is the group's."""
    return parameter.device_mesh.ndim > 1 and bool(parameter.placements[-1].is_shard())
