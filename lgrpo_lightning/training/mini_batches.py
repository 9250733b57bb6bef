"""Which rows, and which of their tokens, an optimizer step is made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lgrpo_lightning.monitoring.metrics import Means
from lgrpo_lightning.types import TrainBatch


def count_masked(batch: TrainBatch, mini_batches: Sequence[Sequence[int]], means: Means) -> None:
    """The share of the completion tokens of trained groups that leave the loss."""
    rows = [row for part in mini_batches for row in part]
    tokens = sum(len(batch.completions[row]) for row in rows)
    if tokens:
        means.put("updates/masked_tokens", tokens - float(batch.mask[rows].sum()), tokens)


def select_rows(kept: Tensor | None, mask: Tensor, rows: list[int]) -> Tensor:
    """``[N, T]`` bool: the trained tokens of ``rows``, those of ``kept`` where it is given."""
    taking_part = torch.zeros(len(mask), 1, dtype=torch.bool, device=mask.device)
    taking_part[rows] = True
    return mask & taking_part if kept is None else mask & taking_part & kept


def split_into_mini_batches(groups: Sequence[int], trained: Sequence[bool], parts: int) -> list[list[int]]:
    """Rows of each optimizer step: whole groups in order, without those that are dropped.

    Args:
        groups: Number of each row's group.
        trained: Whether each group takes part.
        parts: Optimizer steps that the groups are divided into.

    >>> split_into_mini_batches([0, 0, 1, 1, 2, 2, 3, 3], [True, False, True, True], parts=2)
    [[0, 1], [4, 5, 6, 7]]
    """
    per_step = len(trained) // parts
    rows: list[list[int]] = [[] for _ in range(parts)]
    for row, group in enumerate(groups):
        if trained[group]:
            rows[group // per_step].append(row)
    return rows
