"""What a device can do: GPUs from their makers' data sheets, a CPU measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from lgrpo_lightning.errors import UserError


class DataSheet(NamedTuple):
    """Dense bf16 and fp32 peak in TFLOP/s, bandwidth in GB/s, memory in GiB."""

    bf16: float
    fp32: float
    bandwidth: float
    memory: float


GPUS = {
    "H200": DataSheet(989, 67, 4800, 139),
    "H100": DataSheet(989, 67, 3350, 80),
    "A100": DataSheet(312, 19.5, 2039, 80),
    "L40S": DataSheet(362, 91.6, 864, 45),
    "L4": DataSheet(121, 30.3, 300, 22),
    "A10": DataSheet(125, 31.2, 600, 22),
    "4090": DataSheet(165, 82.6, 1008, 24),
}
"""Part of a device's name → its data sheet; of two that fit the first."""


def find_gpu(name: str) -> DataSheet | None:
    """The data sheet of a device; None where there is none."""
    return next((sheet for part, sheet in GPUS.items() if part in name), None)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What one device reaches.

    Attributes:
        memory: Bytes that a process may take.
        flops: FLOP/s of matrix products of 16-bit and of 32-bit numbers.
        bandwidth: Bytes/s read and written.
        layer_seconds: Least time of a decoder layer, forward and backward, in a pass: the host's work.
        decode_seconds: The same in a decoding step.
        program: Bytes that PyTorch and the libraries take.
    """

    name: str
    memory: float
    flops: dict[int, float]
    bandwidth: float
    layer_seconds: float
    decode_seconds: float
    program: float

    @property
    def gpu(self) -> bool:
        """Whether it is one."""
        return self.name != "CPU"


def describe_gpu(name: str, memory: float | None) -> Hardware:
    """The shares of peak and bandwidth, and the host's time, are those of one H200 (docs/estimate.md).

    Args:
        memory: GiB, where it is not the data sheet's.
    """
    sheet = find_gpu(name)
    if sheet is None:
        raise UserError(f"--gpu is {name!r}, of which no data sheet is here. Possible are {', '.join(GPUS)}.")
    return Hardware(
        name=name,
        memory=(memory or sheet.memory) * 2**30,
        flops={2: 0.75e12 * sheet.bf16, 4: 0.75e12 * sheet.fp32},
        bandwidth=0.85e9 * sheet.bandwidth,
        layer_seconds=5e-3,
        decode_seconds=0.9e-3,
        program=1.0 * 2**30,
    )


def measure_cpu(memory: float | None, processes: int) -> Hardware:
    """This machine's CPU with torch's threads, in about half a second.

    Args:
        memory: GiB, where it is not the machine's.
        processes: That share the machine's.
    """
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / processes
    a, b, c = (torch.randn(1024, 1024) for _ in range(3))
    kept, copy = torch.randn(2**24), torch.empty(2**24)
    flops = 2 * 1024**3 / _time_best(lambda: torch.mm(a, b, out=c))
    return Hardware(
        name="CPU",
        memory=memory * 2**30 if memory else whole,
        flops={2: flops, 4: flops},
        bandwidth=2 * 4 * 2**24 / _time_best(lambda: copy.copy_(kept)),
        layer_seconds=2e-3,
        decode_seconds=0.4e-3,
        program=0.6 * 2**30,
    )


def _time_best(work: Callable[[], object], seconds: float = 0.25) -> float:
    """Seconds of the fastest of the repeats that fit into ``seconds``."""
    best, start = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - before)
    return best
