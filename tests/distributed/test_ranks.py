"""What processes exchange: four, each with prompts of its own, and two pairs that share theirs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
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


class Axis:
    """One axis of a device mesh of two by two, as one rank sees it."""

    def __init__(self, name: str, rank: int) -> None:
        self.name, self.rank = name, rank

    def size(self) -> int:
        return 2

    def get_local_rank(self) -> int:
        return self.rank

    def get_group(self) -> str:
        return self.name


@pytest.mark.parametrize("rank", [2, 3])
def test_a_rank_of_a_tensor_group(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two groups, in one process: what is sent to whom."""
    mesh = {"data_parallel": Axis("data", rank // 2), "tensor_parallel": Axis("tensor", rank % 2)}

    def reduce(self: Any, tensor: torch.Tensor, group: str | None, reduce_op: str) -> str:
        tensor.zero_()
        return f"{reduce_op} over {group}"

    strategy = type("Strategy", (ModelParallelStrategy,), {"device_mesh": mesh, "reduce": reduce})()
    trainer = SimpleNamespace(strategy=strategy, world_size=4, global_rank=rank)
    data = find_data_rank(trainer)
    assert (data.rank, data.size, data.group, data.first) == (1, 2, "data", rank == 2)
    ranks, value = find_ranks(trainer), torch.ones(1)
    assert (ranks.sum(value), ranks.max(value), float(value)) == ("sum over data", "max over None", 1)
    sent = list[Any]()

    def broadcast(box: list[Any], group: str, group_src: int) -> None:
        sent.append((list(box), group, group_src))
        box[0] = "received"

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", broadcast)
    assert share(trainer, lambda: "own") == "received"
    assert sent == [(["own"] if rank == 2 else [None], "tensor", 0)]

    def gather_all(out: list[Any], value: int) -> None:
        assert len(out) == 4
        out[:] = range(value, value + 4)

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather_all)
    assert (gather(trainer, 5), gather_data_ranks(trainer, 5)) == ([5, 6, 7, 8], [5, 7])


@pytest.mark.parametrize("sync", [True, False])
def test_who_is_told_whether_to_average(sync: bool) -> None:
    told = list[bool]()
    sharded = SimpleNamespace(set_requires_gradient_sync=told.append)
    with set_gradient_sync(SimpleNamespace(model=sharded), sharded, sync):
        assert told == [sync]
    with set_gradient_sync(SimpleNamespace(model=object()), object(), sync):  # one process: nobody
        pass
