"""What processes exchange: four, each with prompts of its own, and two pairs that share theirs."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.nn.parallel import DistributedDataParallel

from lgrpo_lightning.distributed.ranks import (
    Ranks,
    find_data_rank,
    find_ranks,
    find_tensor_mesh,
    gather,
    gather_data_ranks,
    set_gradient_sync,
    share,
)
from tests import several

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip


class Empty(LightningModule):
    """What a strategy wants to hold."""

    def configure_model(self) -> None:
        """Nothing to shard."""


def exchange(strategy: Any, per_prompt: int) -> None:
    """In each of four processes; ``per_prompt`` of them have the same prompts."""
    trainer = Trainer(devices=4, strategy=strategy, **QUIET)
    trainer.strategy.connect(Empty())
    trainer.strategy.setup_environment()
    rank = trainer.global_rank
    data = find_data_rank(trainer)
    assert (data.rank, data.size, data.first) == (rank // per_prompt, 4 // per_prompt, rank % per_prompt == 0)
    assert (find_tensor_mesh(trainer.strategy) is None) == (per_prompt == 1)
    assert gather(trainer, f"rank {rank}") == [f"rank {r}" for r in range(4)]
    assert gather_data_ranks(trainer, rank) == list(range(0, 4, per_prompt))
    assert share(trainer, lambda: f"from {rank}") == f"from {rank - rank % per_prompt}"
    every = find_ranks(trainer)
    assert every.world_size == 4 // per_prompt
    own = torch.tensor(float(rank))
    assert float(every.sum(own)) == sum(r for r in range(4) if r % per_prompt == rank % per_prompt)
    assert (float(every.max(own)), float(own)) == (3, rank)
    assert every.gather(rank) == [0, 1, 2, 3]
    trainer.strategy.barrier()


def work() -> None:
    """The processes with and without tensor parallelism, and when ddp averages."""
    exchange(ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=2), per_prompt=2)
    exchange("ddp", per_prompt=1)
    rank = torch.distributed.get_rank()
    model = DistributedDataParallel(torch.nn.Linear(1, 1, bias=False))
    holder: Any = type("Holder", (), {"model": model})
    for sync, expected in (
        (False, float(rank)),
        (True, 3.0),
    ):  # the mean of 0, 2, 4, 6: both passes of every rank
        with set_gradient_sync(holder, model, sync):
            model(torch.tensor([[float(rank)]])).sum().backward()
        (gradient,) = (p.grad for p in model.parameters())
        assert gradient is not None
        assert float(gradient) == expected


def test_four_processes() -> None:
    several.ranks(4, work)


def test_a_process_alone() -> None:
    trainer = Trainer(devices=1, **QUIET)
    assert find_ranks(trainer) == Ranks()
    assert (gather(trainer, 5), gather_data_ranks(trainer, 5), share(trainer, lambda: 7)) == ([5], [5], 7)
    assert (find_data_rank(trainer).rank, find_data_rank(trainer).size, find_data_rank(trainer).first) == (
        0,
        1,
        True,
    )
    assert Ranks().gather(3) == [3]
    assert Ranks().sum(torch.tensor(2.0)) == Ranks().max(torch.tensor(2.0)) == 2
