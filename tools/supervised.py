"""Supervised training of the shipped models."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def train(model: Any, data: Iterator[tuple[Tensor, Tensor]], options: argparse.Namespace) -> None:
    """Supervised training with AdamW: 5 % warm-up, then a straight line to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.95), weight_decay=0.01)
    warm = max(1, options.steps // 20)

    def rate(step: int) -> float:
        return float(min((step + 1) / warm, (options.steps - step) / (options.steps - warm + 1)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for step in range(1, options.steps + 1):
        ids, labels = next(data)
        logits = model(ids[:, :-1]).logits
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == options.steps:
            print(f"step {step}/{options.steps}: loss {loss.item():.4f}", flush=True)
