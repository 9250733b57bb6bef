"""How long the stages of a rollout take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Seconds by stage; waits for the GPU, so that each stage pays for its own work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.started = time.perf_counter()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time inside to ``stage``."""
        start = _now()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + _now() - start

    def metrics(self) -> dict[str, float]:
        """``time/<stage>`` for every stage, and ``time/step`` for all since the clock was made."""
        return {f"time/{stage}": seconds for stage, seconds in self.seconds.items()} | {"time/step": self.total}

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return _now() - self.started


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
