"""A rollout that is sampled and scored while another one is trained on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from lgrpo_lightning.distributed.component_call import aside
from lgrpo_lightning.distributed.interruption import abandon_if_stopping, cancellable
from lgrpo_lightning.distributed.leaving import beside
from lgrpo_lightning.training.refill import Scored
from lgrpo_lightning.types import Group, Prompt

Result = TypeVar("Result")
POLL = 0.2
"""Seconds between two looks whether a stop was asked for."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is drawn.

    Attributes:
        index: Number of the rollout.
        prompts: This rank's.
        version: Optimizer steps that the weights have had which it is drawn from.
    """

    index: int
    prompts: tuple[Prompt, ...]
    version: int


class Flight(threading.Thread):
    """One rollout on a thread of its own: sampled at once, scored when the one before is.

    Args:
        plan: What is drawn.
        sample: Draws the groups.
        score: Scores them.
        before: The flight before, or None.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        sample: Callable[[Sequence[Prompt]], list[Group]],
        score: Callable[[list[Group]], Scored],
        before: Flight | None,
    ) -> None:
        super().__init__(name=f"rollout {plan.index}", daemon=True)
        self.plan, self._sample, self._score = plan, sample, score
        self.sampled, self.scored = threading.Event(), threading.Event()
        self._cancelled = threading.Event()
        self.seconds: dict[str, float] = {}
        self.sampled_at = 0.0
        self._before = None if before is None else before.scored
        self._device = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
        self._found: Scored | None = None
        self._error: BaseException | None = None
        if before is not None and before.sampled_at:
            self.seconds["sampler_idle"] = time.perf_counter() - before.sampled_at

        beside(self)

    def cancel(self) -> None:
        """Nobody waits for it any more: the sampler notices, a reward that is at work is finished."""
        self._cancelled.set()

    def run(self) -> None:
        """Sample and score."""
        try:
            if self._device is not None:
                torch.cuda.set_device(self._device)
            with aside(), cancellable(self._cancelled):
                groups = self._timed("sample", lambda: self._sample(self.plan.prompts))
                self.sampled_at = time.perf_counter()
                self.sampled.set()
                while self._before is not None and not self._before.wait(POLL):
                    abandon_if_stopping()
                abandon_if_stopping()
                self._found = self._timed("reward", lambda: self._score(groups))
        except BaseException as error:  # raised where the run waits for it
            self._error = error
        finally:
            self.sampled.set()
            self.scored.set()

    def check(self) -> None:
        """Raise what went wrong, if anything has."""
        if self._error is not None:
            raise self._error

    def result(self) -> Scored:
        """What it brought; once ``scored``."""
        self.check()
        assert self._found is not None
        return self._found

    def _timed(self, stage: str, call: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        found = call()
        self.seconds[stage] = time.perf_counter() - start
        return found
