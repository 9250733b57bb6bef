"""``trainer.strategy: fsdp2``: Lightning's ModelParallelStrategy with everything sharded over all ranks."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from lgrpo_lightning.distributed.ranks import find_tensor_mesh
from lgrpo_lightning.distributed.sharded_checkpoint import (
    is_folder,
    list_parameter_names,
    load_folder,
    refuse_damaged,
    refuse_pickles,
    renumber_parameters,
)
from lgrpo_lightning.errors import UserError, require

COMPUTE_TYPES = {"bf16-mixed": torch.bfloat16}
"""``trainer.precision`` → type of weights while they are gathered, where it is not their own."""
LONGEST = 1e9
"""Seconds that a rank may be told to wait."""


class FSDP2Strategy(ModelParallelStrategy):
    """Shards weights, gradients and optimizer state over all ranks of all nodes (FSDP2).

    Under ``trainer.precision: bf16-mixed`` weights are gathered and computed with in bf16; the shards, the optimizer
    and the checkpoint keep float32.

    Args:
        tensor_parallel_size: Divide every decoder layer over so many ranks, which have the same prompts; the rest of
            the ranks shards by data parallelism. 1: all of them do.
        cpu_offload: Keep shards, gradients and optimizer state in CPU memory.
        reduce_dtype: Type in which gradients travel between ranks.
        save_distributed_checkpoint: A checkpoint is a folder with one file a rank; False gathers it into one file.
        timeout_seconds: How long a rank waits for the others.

    An argument that is out of range is a ``ValueError`` of the Trainer.
    """

    def __init__(
        self,
        tensor_parallel_size: int = 1,
        cpu_offload: bool = False,
        reduce_dtype: Literal["float32", "bfloat16"] = "float32",
        save_distributed_checkpoint: bool = False,
        timeout_seconds: float = 1800.0,
    ) -> None:
        super().__init__(
            tensor_parallel_size=tensor_parallel_size,
            save_distributed_checkpoint=save_distributed_checkpoint,
            # a value out of range is refused later, where the message reaches the user
            timeout=timedelta(seconds=timeout_seconds if 0 < timeout_seconds < LONGEST else LONGEST),
        )
        self.tensor_parallel_size = tensor_parallel_size
        self.in_shards = save_distributed_checkpoint
        self.cpu_offload = cpu_offload
        self.reduce_dtype = reduce_dtype
        self.timeout_seconds = timeout_seconds

    def _configure_launcher(self) -> None:
        """Refuse bad options as the Trainer is made: what ``__init__`` raises, the command line's parser hides."""
        size, here, seconds = self.tensor_parallel_size, self.num_processes, self.timeout_seconds
        require(
            "fsdp2: ",
            vars(self),
            (size >= 1, "tensor_parallel_size", "at least 1"),
            (0 < seconds < LONGEST, "timeout_seconds", f"above 0 and below {LONGEST:g}"),
        )
        if here % size:
            possible = ", ".join(str(n) for n in range(1, here + 1) if here % n == 0)
            raise UserError(
                f"fsdp2: tensor_parallel_size is {size}, which does not divide the {here} devices of a node "
                f"(trainer.devices). Possible are {possible}."
            )
        super()._configure_launcher()

    def setup_environment(self) -> None:
        """All ranks of all nodes shard together, those of a tensor group as one."""
        self._data_parallel_size = self.num_nodes * self.num_processes // self.tensor_parallel_size
        if self.cpu_offload and self.root_device.type == "cuda":
            self._process_group_backend = "cpu:gloo,cuda:nccl"  # norms and checkpoints are those of CPU shards
        super().setup_environment()

    @property
    def sharding(self) -> dict[str, Any]:
        """Arguments of ``sharding.shard``."""
        return {
            "mesh": self.device_mesh["data_parallel"],
            "tensor_mesh": find_tensor_mesh(self),
            "param_dtype": COMPUTE_TYPES.get(str(self.precision_plugin.precision)),
            "reduce_dtype": getattr(torch, self.reduce_dtype),
            "cpu_offload": self.cpu_offload,
        }

    def model_to_device(self) -> None:
        """Move what is not sharded; shards that are offloaded stay where they are."""
        if not self.cpu_offload:
            return super().model_to_device()
        assert self.model is not None
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(self.root_device))
        return None

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state as one process would give it (on rank 0), or this rank's part of it. Collective."""
        optimizer = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        assert self.model is not None
        whole = not self.in_shards
        options = StateDictOptions(full_state_dict=whole, cpu_offload=True)
        state = dict(get_optimizer_state_dict(self.model, optimizer, options=options))
        if not whole or self.global_rank != 0:
            return state
        names = list_parameter_names(self.model, optimizer)
        return renumber_parameters(state, {name: number for number, name in enumerate(names)})

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Take weights and optimizer state from a folder or a file, whatever number of ranks wrote it. Collective.

        Returns:
            All else that it holds.
        """
        path, module = Path(self.broadcast(checkpoint_path)), self.lightning_module
        assert self.model is not None
        assert module is not None
        if is_folder(path):
            return load_folder(path, self.model, self.optimizers, strict=module.strict_loading)
        refuse_damaged(path)
        with refuse_pickles(path):
            checkpoint: dict[str, Any] = torch.load(path, mmap=True, map_location="cpu", weights_only=weights_only)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=module.strict_loading)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        options = replace(options, strict=True)
        for optimizer, state in zip(self.optimizers, checkpoint.pop("optimizer_states", ()), strict=False):
            named = renumber_parameters(state, dict(enumerate(list_parameter_names(self.model, optimizer))))
            set_optimizer_state_dict(self.model, optimizer, named, options=options)
        return checkpoint


def register() -> None:
    """Make ``fsdp2`` a name of a strategy."""
    if "fsdp2" not in StrategyRegistry:
        StrategyRegistry.register("fsdp2", FSDP2Strategy, description="FSDP2: everything sharded over all ranks")


def find_sharding(strategy: Any) -> dict[str, Any] | None:
    """Arguments of ``sharding.shard`` where the strategy shards; None elsewhere."""
    if isinstance(strategy, FSDP2Strategy):
        return strategy.sharding
    if isinstance(strategy, ModelParallelStrategy):
        return {"mesh": strategy.device_mesh["data_parallel"], "tensor_mesh": find_tensor_mesh(strategy)}
    return None
