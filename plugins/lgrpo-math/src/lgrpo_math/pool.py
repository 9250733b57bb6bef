"""Several checking processes, asked at the same time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import LifoQueue
from typing import Any

from lgrpo_math.worker import Worker


class Pool:
    """Checking processes that share the answers between them; each starts when it is first needed."""

    def __init__(self, workers: int, memory_mb: int) -> None:
        self.workers = [Worker(memory_mb) for _ in range(workers)]
        self.owner = os.getpid()
        self._idle: LifoQueue[Worker] = LifoQueue()
        for worker in self.workers:
            self._idle.put(worker)

    def verdicts(self, requests: Sequence[Mapping[str, Any]], seconds: float) -> list[str]:
        """The verdict on each request, in order; each may take ``seconds``."""
        if not requests:
            return []
        threads = ThreadPoolExecutor(min(len(self.workers), len(requests)), "lgrpo-math")
        try:
            return list(threads.map(lambda request: self._verdict(request, seconds), requests))
        finally:
            threads.shutdown(cancel_futures=True)

    def close(self) -> None:
        """End all processes; a forked copy of the owner leaves them alone."""
        if self.owner == os.getpid():
            for worker in self.workers:
                worker.close()

    def _verdict(self, request: Mapping[str, Any], seconds: float) -> str:
        worker = self._idle.get()
        try:
            return worker.verdict(request, seconds)
        finally:
            self._idle.put(worker)
