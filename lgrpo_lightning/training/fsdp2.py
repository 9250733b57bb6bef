"""``trainer.strategy: fsdp2``: Lightning's ModelParallelStrategy with everything sharded over all ranks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry


class FSDP2Strategy(ModelParallelStrategy):
    """Shards weights, gradients and optimizer state over all ranks (FSDP2).

    Args:
        tensor_parallel_size: Only 1: this library shards by data parallelism.
        cpu_offload: Keep the shards in CPU memory between uses.
        save_distributed_checkpoint: A checkpoint is a folder with one file a rank; False gathers it into one file.
        timeout_seconds: How long a rank waits for the others.

    Raises:
        ValueError: ``tensor_parallel_size`` is not 1.
    """

    def __init__(
        self,
        tensor_parallel_size: int = 1,
        cpu_offload: bool = False,
        save_distributed_checkpoint: bool = False,
        timeout_seconds: float = 1800.0,
    ) -> None:
        if tensor_parallel_size != 1:
            raise ValueError(
                f"fsdp2 with tensor_parallel_size {tensor_parallel_size} is not supported; use 1. To sample with a "
                "model larger than one device, divide it in the inference engine."
            )
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            timeout=timedelta(seconds=timeout_seconds),
        )
        self.cpu_offload = cpu_offload

    def setup_environment(self) -> None:
        """All ranks of all nodes shard together."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def register() -> None:
    """Make ``fsdp2`` a name of a strategy."""
    if "fsdp2" not in StrategyRegistry:
        StrategyRegistry.register(
            "fsdp2", FSDP2Strategy, description="FSDP2: everything sharded over all ranks"
        )


def mesh_of(strategy: Any) -> Any | None:
    """The data-parallel mesh where the strategy shards; None elsewhere."""
    return strategy.device_mesh["data_parallel"] if isinstance(strategy, ModelParallelStrategy) else None
