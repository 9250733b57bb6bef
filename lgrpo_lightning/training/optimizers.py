"""Optimizer, learning-rate schedule and gradient norm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from lgrpo_lightning.policy.sharded_weights import whole
from lgrpo_lightning.training.options import Schedule


def default_optimizer(params: Iterable[Parameter]) -> Optimizer:
    """AdamW at the rate that full fine-tuning by RL usually takes."""
    return AdamW(params, lr=1e-6, weight_decay=0.0)


def made(factory: Callable[[list[Parameter]], Optimizer], parameters: list[Parameter]) -> Optimizer:
    """The optimizer over ``parameters``.

    Raises:
        ValueError: It refuses its options.
    """
    try:
        return factory(parameters)
    except (ValueError, TypeError) as error:
        raise ValueError(f"model.optimizer refuses its options: {error}") from error


def scheduler(optimizer: Optimizer, schedule: Schedule, *, total_steps: int | None) -> Any:
    """The learning-rate scheduler of transformers called ``schedule.name``.

    Args:
        total_steps: Optimizer steps of the run where they are known; ``schedule.total_steps`` comes first.

    Raises:
        ValueError: The name is unknown, or the schedule needs an end that is not known.
    """
    from transformers import SchedulerType, get_scheduler

    names = [s.value for s in SchedulerType]
    if schedule.name not in names:
        raise ValueError(f"schedule.name is {schedule.name!r}; possible are {', '.join(names)}.")
    total = schedule.total_steps or total_steps
    if total is None and not schedule.name.startswith("constant"):
        raise ValueError(
            f"schedule.name {schedule.name!r} needs to know where it ends: set trainer.max_steps, "
            "model.max_rollouts or model.schedule.total_steps."
        )
    warmup = None if schedule.name == "constant" else schedule.warmup_steps
    return get_scheduler(schedule.name, optimizer, num_warmup_steps=warmup, num_training_steps=total)


def gradient_norm(params: Iterable[Parameter]) -> Tensor:
    """The norm of all gradients together; of sharded ones a DTensor, for ``whole``, where all are sharded alike.

    Collective where they are not, as under tensor parallelism.
    """
    norms = [
        torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])
        for group in _by_mesh(params)
    ]
    return norms[0] if len(norms) == 1 else torch.nn.utils.get_total_norm([whole(norm) for norm in norms])


def clip(params: Iterable[Parameter], norm: Tensor, limit: float | None) -> None:
    """Scale gradients, whose norm is ``norm``, down to a norm of at most ``limit``."""
    for group in _by_mesh(params):
        torch.nn.utils.clip_grads_with_norm_(group, torch.inf if limit is None else limit, norm)


def _by_mesh(params: Iterable[Parameter]) -> list[list[Parameter]]:
    """Those with a gradient, in groups that are sharded over the same ranks; one empty group where there are none."""
    groups: dict[Any, list[Parameter]] = {}
    for parameter in params:
        if parameter.grad is not None:
            groups.setdefault(getattr(parameter.grad, "device_mesh", None), []).append(parameter)
    return list(groups.values()) or [[]]
