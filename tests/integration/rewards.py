"""Reward functions for test runs."""

from __future__ import annotations

from typing import Any


def even(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """Share of even token ids: a reward that random models get in different amounts."""
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]


def length(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """Length over 32: with it, the loss of a rollout is far from 0."""
    return [len(ids) / 32 for ids in completion_ids]
