"""An optimizer step whose gradient is complete and which is not made yet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from lgrpo_lightning.types import TrainBatch, pad


@dataclass(frozen=True, kw_only=True)
class PendingStep:
    """What the forward and backward passes of an optimizer step gave on this rank, without gradients.

    Attributes:
        batch: All rows of the rollout on this rank.
        pass_losses: The share of each pass in the step's loss, still on the device.
        tokens: Row that takes part → ``[T]`` losses and ``[T]`` log-probs of its tokens.
        old, ref: ``[N, T]`` log-probs before the update and of the reference, where known.
        entropy: This rank's share of the mean entropy of the trained tokens.
    """

    batch: TrainBatch
    pass_losses: tuple[Tensor, ...]
    tokens: Mapping[int, tuple[Tensor, Tensor]]
    old: Tensor | None = None
    ref: Tensor | None = None
    entropy: Tensor = field(default_factory=lambda: torch.zeros(()))

    @cached_property
    def losses(self) -> list[float]:
        """The loss of every pass, read from the device at once."""
        return [float(x) for x in torch.stack(self.pass_losses).tolist()]

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
        return sorted(self.tokens)

    @property
    def logprobs(self) -> Tensor:
        """``[n, T]`` log-probs of ``rows`` as the policy gave them."""
        return pad([self.tokens[row][1] for row in self.rows], self.batch.mask.shape[1])

    def offending(self) -> list[int]:
        """Rows with a loss or log-prob that is not finite on a trained token."""
        values = {row: torch.stack(self.tokens[row]) for row in self.rows}
        return [row for row, v in values.items() if not v[:, self.batch.mask[row, : v.shape[1]]].isfinite().all()]
