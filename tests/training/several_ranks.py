"""Processes of a run as threads of this one, each with its own model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from lgrpo_lightning.distributed.ranks import Ranks

T = TypeVar("T")


def together(size: int, work: Callable[[int, Ranks], T]) -> list[T]:
    """``work(rank, ranks)`` in ``size`` threads at a time; what each gave."""
    barrier, box = threading.Barrier(size, timeout=60), [None] * size

    def exchanged(rank: int, value: Any) -> list[Any]:
        box[rank] = value
        barrier.wait()
        found = list(box)
        barrier.wait()
        return found

    def of(rank: int) -> Ranks:
        return Ranks(
            world_size=size,
            sum=lambda x: torch.stack(exchanged(rank, x)).sum(0),
            max=lambda x: torch.stack(exchanged(rank, x)).amax(0),
            gather=lambda value: exchanged(rank, value),
        )

    def run(rank: int) -> T:
        try:
            return work(rank, of(rank))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
