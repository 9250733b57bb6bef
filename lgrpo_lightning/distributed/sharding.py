"""FSDP2: the policy's weights divided over all ranks."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.fsdp import register_fsdp_forward_method as enter_through

from lgrpo_lightning.distributed.tensor_parallel import divide
from lgrpo_lightning.policy.multimodal import find_outside_of_text
from lgrpo_lightning.policy.policy import Policy


def shard(
    policy: Policy,
    mesh: Any,
    *,
    tensor_mesh: Any = None,
    param_dtype: torch.dtype | None = None,
    reduce_dtype: torch.dtype = torch.float32,
    cpu_offload: bool = False,
) -> None:
    """Shard every decoder layer, then the policy as the root.

    All work on the weights has to enter through the root: its ``forward``, or ``unshard``.

    Args:
        mesh: The device mesh of data parallelism.
        tensor_mesh: That of tensor parallelism, which divides the layers before; None: nothing does.
        param_dtype: Gather the weights and compute in this type; None: in their own.
        reduce_dtype: Gradients are summed over ranks in this type.
        cpu_offload: Keep the shards in CPU memory.
    """
    if tensor_mesh is not None:
        divide(policy, tensor_mesh)
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=reduce_dtype),
        "offload_policy": CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if cpu_offload else OffloadPolicy(),
    }
    if cpu_offload:
        cuda = mesh.device_type == "cuda"
        policy.compute_device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    names = set(policy.model._no_split_modules or [])
    outside = {id(module) for module in find_outside_of_text(policy.model).values()}  # no pass of text gathers it
    for module in list(policy.model.modules()):
        if type(module).__name__ in names and id(module) not in outside:
            fully_shard(module, **options)
    fully_shard(policy, **options)
    # called by `unshard`, so that FSDP2 takes the policy for its root before a part of it runs alone
    enter_through(policy, "touch")


def are_weights_left_out(trainer: Trainer) -> bool:
    """Whether a state is being taken without weights, as they are gathered when it is written."""
    return is_sharded(trainer) and "lightning_module_state_dict" in vars(trainer.strategy)


def is_sharded(trainer: Trainer) -> bool:
    """Whether the strategy has to gather the state, which makes a copy of it."""
    return isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
