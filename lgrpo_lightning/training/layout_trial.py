"""Times the layouts on a GPU, where an estimate from tokens does not know what limits the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.policy import Policy
from lgrpo_lightning.policy.choice import LayoutName
from lgrpo_lightning.training.batch_scorer import BatchScorer
from lgrpo_lightning.types import TrainBatch

PASSES = 4
"""Padded passes whose rows are timed."""

Backward = Callable[[Tensor, bool], None]


class LayoutTrial:
    """Which layout was fastest on the first rollout of a run.

    Attributes:
        fastest: None before the trial.
        reason: For the log.
    """

    def __init__(self) -> None:
        self.fastest: LayoutName | None = None
        self.reason = ""

    def applies(self, policy: Policy) -> bool:
        """Whether layouts are timed: on a GPU where none is configured, and where runs need not be repeatable."""
        timed = policy.device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
        return timed and policy.config.layout == "auto"

    def decide(self, scorer: BatchScorer, batch: TrainBatch, layouts: list[LayoutName], backward: Backward) -> None:
        """Take the fastest of ``layouts``, all of which work. Collective: the slowest rank counts."""
        if len(layouts) == 1:
            self.fastest, self.reason = layouts[0], "; ".join(scorer.policy.unsupported.values())
            return
        seconds: dict[LayoutName, float] = {}
        for name in layouts:
            scorer.policy.take_layout(name, batch.prompts, batch.completions, reason="it is timed")
            own = _time_passes(scorer, batch, backward)
            seconds[name] = float(scorer.ranks.max(torch.tensor(own, device=scorer.policy.device)))
        self.fastest = min((s, name) for name, s in seconds.items())[1]
        times = ", ".join(f"{name} {s * 1000:,.0f} ms" for name, s in seconds.items())
        self.reason = f"the fastest on the first rollout ({times})"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run does not time again."""
        return {"fastest": self.fastest, "reason": self.reason}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that layout."""
        self.fastest, self.reason = state["fastest"], state["reason"]


def _time_passes(scorer: BatchScorer, batch: TrainBatch, backward: Backward) -> float:
    """Seconds of forward and backward passes over the first groups, which leave no gradient; inf without memory."""
    policy, rows = scorer.policy, _select_first_groups(batch, PASSES * scorer.policy.config.micro_batch_tokens)
    fits = True
    for _ in range(2):  # the first time warms up
        start, passes = _read_clock(policy), list(scorer.passes(batch, rows))  # as many on every rank
        for number, (pack, _) in enumerate(passes):
            micro = batch.rows(pack)
            try:
                if fits:
                    scores = policy(micro.prompts, micro.completions, temperature=scorer.temperature)
                    backward(scores.logprobs.sum() * 0.0, number == len(passes) - 1)
            except torch.OutOfMemoryError:
                fits = False
        seconds = _read_clock(policy) - start
    policy.zero_grad(set_to_none=True)
    return seconds if fits else math.inf


def _select_first_groups(batch: TrainBatch, tokens: int) -> list[int]:
    """Rows of the first groups, at least one, that have so many tokens as padded rows."""
    groups, used = batch.group_ids.tolist(), 0
    rows: list[int] = []
    for row, number in enumerate(groups):
        used += len(batch.prompts[row]) + len(batch.completions[row])
        if used > tokens and rows and number != groups[rows[-1]]:
            break
        rows.append(row)
    return rows


def _read_clock(policy: Policy) -> float:
    """Seconds, once the device has done what it was given."""
    if policy.device.type == "cuda":
        torch.cuda.synchronize(policy.device)
    return time.perf_counter()
