"""A rollout that is sampled and scored while another one is trained on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lgrpo_lightning.distributed.interruption import abandon_if_stopping, run_aside
from lgrpo_lightning.distributed.leaving import join_at_exit
from lgrpo_lightning.rollouts.refill import ScoredGroups
from lgrpo_lightning.types import Group, Progress, Prompt

POLL = 0.2
"""Seconds between two looks whether a stop was asked for."""


@dataclass(frozen=True, kw_only=True)
class RolloutRequest:
    """A rollout that is to be drawn: this rank's prompts, and where the run will be."""

    prompts: tuple[Prompt, ...]
    progress: Progress

    @property
    def index(self) -> int:
        """Number of the rollout."""
        return self.progress.rollout


class RolloutThread(threading.Thread):
    """Samples one rollout at once, and scores it when the rollout ``before`` has been scored.

    ``version`` counts the optimizer steps of the weights that it is drawn from.
    """

    def __init__(
        self,
        request: RolloutRequest,
        version: int,
        *,
        sample: Callable[[Sequence[Prompt]], list[Group]],
        score: Callable[[list[Group]], ScoredGroups],
        before: RolloutThread | None,
    ) -> None:
        super().__init__(name=f"rollout {request.index}", daemon=True)
        self.request, self.version = request, version
        self._sample, self._score = sample, score
        self.sampled, self.scored = threading.Event(), threading.Event()
        self._cancelled = threading.Event()
        self.seconds: dict[str, float] = {}
        self.sampled_at = 0.0
        self._before = None if before is None else before.scored
        self._device = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
        self._scored_groups: ScoredGroups | None = None
        self._error: BaseException | None = None
        if before is not None and before.sampled_at:
            self.seconds["sampler_idle"] = time.perf_counter() - before.sampled_at
        join_at_exit(self)

    def cancel(self) -> None:
        """Give it up: the sampler notices; a reward that is at work is finished."""
        self._cancelled.set()

    def run(self) -> None:
        """Sample and score."""
        try:
            if self._device is not None:
                torch.cuda.set_device(self._device)
            with run_aside(self._cancelled):
                started = time.perf_counter()
                groups = self._sample(self.request.prompts)
                self.sampled_at = time.perf_counter()
                self.seconds["sample"] = self.sampled_at - started
                self.sampled.set()
                while self._before is not None and not self._before.wait(POLL):
                    abandon_if_stopping()
                abandon_if_stopping()
                started = time.perf_counter()
                self._scored_groups = self._score(groups)
                self.seconds["reward"] = time.perf_counter() - started
        except BaseException as error:  # raised where the run waits for it
            self._error = error
        finally:
            self.sampled.set()
            self.scored.set()

    def check(self) -> None:
        """Raise what went wrong, if anything has."""
        if self._error is not None:
            raise self._error

    def result(self) -> ScoredGroups:
        """The scored groups, once ``scored`` is set."""
        self.check()
        assert self._scored_groups is not None
        return self._scored_groups
