"""The processes in which the environments of a run live."""

from __future__ import annotations

import pickle
import threading
import time
import warnings
from collections.abc import Mapping
from itertools import count
from typing import Any

from lgrpo_lightning.environments.isolation.worker import InProcessError, Worker
from lgrpo_lightning.environments.limits import StateLostError
from lgrpo_lightning.errors import UserError

START = 120.0
"""Seconds that a new process, and the modules of its environments, may take."""
GRACE = 2.0
"""Seconds that processes have to end by themselves."""


class Seat:
    """An environment in one of the processes, for an episode, with the metrics of its last call."""

    def __init__(self, worker: Worker, key: int) -> None:
        self.worker, self.key = worker, key
        self.metrics: Mapping[str, float] = {}

    def call(self, method: str, *arguments: Any, limit: float) -> Any:
        """What a method gives in ``limit`` seconds; errors as of ``Worker.ask``."""
        answer = self.worker.ask(self.key, method, *arguments, limit=limit)
        self.metrics = answer.metrics or self.metrics
        return answer.value

    def leave(self, *, limit: float, begun: bool = True) -> None:
        """The environment is closed, unless no episode was begun, and waits for another episode."""
        self.worker.seats.discard(self.key)
        self.call("close" if begun else "back", limit=limit)


class Workers:
    """Up to ``most`` processes; each episode lives in the one that has fewest. They are started when needed.

    One that ends is replaced by the next episode that is seated. What lived there is lost.
    """

    def __init__(self, prototypes: Mapping[str | None, bytes], most: int) -> None:
        self.prototypes, self.most = pickle.dumps(dict(prototypes)), most
        self.running: list[Worker] = []
        self._lock, self._keys, self._warned = threading.Lock(), count(), False

    def prepare(self, episodes: int) -> None:
        """Start what ``episodes`` need, side by side."""
        with self._lock:
            self._clear()
            for _ in range(min(self.most, episodes) - len(self.running)):
                self._start()

    def seat(self, name: str | None) -> Seat:
        """An environment for an episode, where fewest are; errors as of ``Worker.ask``."""
        with self._lock:
            self._clear()
            worker = min(self.running, key=lambda w: len(w.seats), default=None)
            if worker is None or (worker.seats and len(self.running) < self.most):
                worker = self._start()
            key = next(self._keys)
            worker.seats.add(key)
        seat = Seat(worker, key)
        try:
            seat.call("open", name, limit=START)
        except InProcessError:
            worker.seats.discard(key)
            raise
        return seat

    def check(self, classes: Mapping[str | None, str]) -> None:
        """Make one of each environment: what cannot live in a process is refused early, by its name in ``classes``."""
        for name, shown_name in classes.items():
            try:
                self.seat(name).leave(limit=START, begun=False)
            except (InProcessError, StateLostError) as error:
                shown = error if isinstance(error, StateLostError) else f"{type(error).__name__}: {error}"
                raise UserError(
                    f"EnvironmentSampler: {shown_name} cannot be made in a process of its own "
                    f"({shown}). It has to be importable there: put it and its tools in a module beside the script, "
                    "not in the script or notebook itself; or set isolation: thread."
                ) from error

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            running, self.running = self.running, []
        for worker in running:
            worker.leave()
        until = time.monotonic() + GRACE
        for worker in running:
            worker.close(until=until)

    def _clear(self) -> None:
        self.running = [worker for worker in self.running if worker.is_running()]

    def _start(self) -> Worker:
        worker = Worker(self.prototypes, self._warn_of_end)
        self.running.append(worker)
        return worker

    def _warn_of_end(self, how: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"EnvironmentSampler: a process of environments is replaced: {how}. Episodes whose environments lived "
                "there are dropped (episodes/failed). Later ones are not told.",
                stacklevel=2,
            )
