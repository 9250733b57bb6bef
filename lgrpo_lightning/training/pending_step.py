"""An optimizer step whose gradient is complete and which is not made yet."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from lgrpo_lightning.types import TrainBatch, pad


@dataclass(frozen=True, kw_only=True)
class MicroBatchResult:
    """One forward and backward pass, detached.

    Attributes:
        rows: Rows of the batch; empty for a pass that only keeps the ranks in step.
        loss: Its share of the step's loss, still on the device.
        per_token, logprobs: ``[n, T]`` losses and log-probs of every token.
    """

    rows: tuple[int, ...]
    loss: Tensor
    per_token: Tensor
    logprobs: Tensor


@dataclass(frozen=True, kw_only=True)
class PendingStep:
    """What the forward and backward passes of an optimizer step gave on this rank.

    Attributes:
        batch: All rows of the rollout on this rank.
        passes: What was computed, pass by pass.
        old, ref: ``[N, T]`` log-probs before the update and of the reference, where known.
        entropy: This rank's share of the mean entropy of the trained tokens.
    """

    batch: TrainBatch
    passes: tuple[MicroBatchResult, ...]
    old: Tensor | None = None
    ref: Tensor | None = None
    entropy: Tensor = field(default_factory=lambda: torch.zeros(()))

    @cached_property
    def losses(self) -> list[float]:
        """The loss of every pass, read from the device at once."""
        return [float(x) for x in torch.stack([p.loss for p in self.passes]).tolist()]

    @property
    def loss(self) -> float:
        """The loss of this rank."""
        return sum(self.losses)

    @property
    def finite(self) -> bool:
        """Whether every loss is."""
        return all(map(math.isfinite, self.losses))

    @property
    def rows(self) -> list[int]:
        """The rows that take part, in order."""
        return sorted(row for p in self.passes for row in p.rows)

    @property
    def logprobs(self) -> Tensor:
        """``[n, T]`` log-probs of ``rows`` as the policy gave them."""
        by_row = {row: p.logprobs[i] for p in self.passes for i, row in enumerate(p.rows)}
        return pad([by_row[row] for row in self.rows], self.batch.mask.shape[1])

    def offending(self) -> list[int]:
        """Rows with a loss or log-prob that is not finite on a trained token."""
        found: list[int] = []
        for p in self.passes:
            for i, row in enumerate(p.rows):
                mask = self.batch.mask[row, : p.per_token.shape[1]]
                values = torch.stack([p.per_token[i], p.logprobs[i]])[:, mask]
                if not bool(values.isfinite().all()):
                    found.append(row)
        return sorted(found)
