"""Optimizer, learning-rate schedule and gradient norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.sharded_weights import gather_whole
from lgrpo_lightning.rollouts.plain import to_plain
from lgrpo_lightning.training.options import Schedule


def default_optimizer(params: Iterable[Parameter]) -> Optimizer:
    """AdamW at the rate that full fine-tuning by RL usually takes."""
    return AdamW(params, lr=1e-6, weight_decay=0.0)


def build_optimizer(factory: Callable[[list[Parameter]], Optimizer], parameters: list[Parameter]) -> Optimizer:
    """The optimizer over ``parameters``; a ``ValueError`` where it refuses its options."""
    try:
        return factory(parameters)
    except (ValueError, TypeError) as error:
        raise UserError(f"model.optimizer refuses its options: {error}") from error


NEED_METRIC = ("reduce_lr_on_plateau", "greedy")
"""Schedules of transformers that want a metric at every step."""
ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt")
"""Those that have no end."""


def build_scheduler(optimizer: Optimizer, schedule: Schedule, *, total_steps: int | None) -> Any:
    """The learning-rate scheduler of transformers called ``schedule.name``.

    Args:
        total_steps: Optimizer steps of the run where they are known; ``schedule.total_steps`` comes first.

    Raises:
        ValueError: The name or an argument is not possible, or the schedule needs an end that is not known.
    """
    from transformers import get_scheduler

    name, given = schedule.name, dict(schedule.kwargs)
    _check_names(schedule)
    total = None if "num_stable_steps" in given else schedule.total_steps or total_steps
    if total is None and name not in ENDLESS and "num_stable_steps" not in given:
        raise UserError(
            f"schedule.name {name!r} needs to know where it ends: set trainer.max_steps, "
            "model.updates.max_rollouts or model.schedule.total_steps."
        )
    steps = {"num_warmup_steps": schedule.warmup_steps, "num_training_steps": total}
    try:
        made = get_scheduler(name, optimizer, **steps, scheduler_specific_kwargs=given)
        rates = [rate(n) for rate in made.lr_lambdas for n in (0, schedule.warmup_steps, total or 10**9)]
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"schedule.name {name!r} with schedule.kwargs {given}: {error}.") from error
    if not all(0 <= rate < math.inf for rate in rates):
        raise UserError(f"schedule.kwargs {given} make a learning rate that is below 0 or not finite.")
    return made


def _check_names(schedule: Schedule) -> None:
    """Refuse a schedule that there is not, and arguments that it does not take."""
    from transformers import SchedulerType
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    names = [s.value for s in SchedulerType if s.value not in NEED_METRIC]
    if schedule.name not in names:
        why = ", which needs a metric at every step" if schedule.name in NEED_METRIC else ""
        raise UserError(f"schedule.name is {schedule.name!r}{why}; possible are {', '.join(names)}.")
    takes = set(signature(TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(schedule.name)]).parameters)
    takes -= {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    if unknown := sorted(set(schedule.kwargs) - takes):
        raise UserError(
            f"schedule.kwargs has {', '.join(unknown)}; {schedule.name} takes {', '.join(sorted(takes)) or 'none'}."
        )


def describe_optimizer(optimizer: Optimizer) -> dict[str, str]:
    """Key in a configuration → text of each option."""
    options = {"class_path": type(optimizer).__name__, **optimizer.defaults}
    return {f"model.optimizer.{name}": str(value) for name, value in options.items()}


TAKEN_OVER = ("lr", "weight_decay", "betas", "eps")
"""Options of an optimizer that may change on resume; with others its state may mean nothing."""


def read_rates(optimizer: Optimizer, schedule: Schedule) -> list[dict[str, Any]]:
    """What an optimizer that has no scheduler yet was told: a dictionary for each group, and one for the schedule."""
    groups = [{name: group[name] for name in TAKEN_OVER if name in group} for group in optimizer.param_groups]
    return list(to_plain([*groups, asdict(schedule)]))  # a checkpoint takes nothing else


def take_over_rates(optimizer: Optimizer, made: Any, now: list[dict[str, Any]], before: list[dict[str, Any]]) -> str:
    """Have a restored optimizer and its schedule do what this run was told to, where that is something else.

    Args:
        made: The restored scheduler.
        now, before: ``read_rates`` of this run, and of the one that wrote the checkpoint.

    Returns:
        What has changed, as text.
    """
    pairs = [
        {name: (old[name], value) for name, value in new.items() if name in old and old[name] != value}
        for old, new in zip(before, now, strict=False)
    ]
    if not any(pairs):
        return ""
    for group, changed in zip(optimizer.param_groups, pairs, strict=False):
        group.update({name: value for name, (_, value) in changed.items()})
        group["initial_lr"] = changed["lr"][1] if "lr" in changed else group["initial_lr"]
    made.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    for group, base, rate in zip(optimizer.param_groups, made.base_lrs, made.lr_lambdas, strict=True):
        group["lr"] = base * rate(made.last_epoch)
    said = dict.fromkeys(f"{k}: {old} -> {new}" for changed in pairs for k, (old, new) in changed.items())
    return ", ".join(said)


def compute_gradient_norm(params: Iterable[Parameter]) -> Tensor:
    """The norm of all gradients together; of sharded ones a DTensor, for ``whole``, where all are sharded alike.

    Collective where they are not, as under tensor parallelism.
    """
    norms = [torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in _by_mesh(params)]
    return norms[0] if len(norms) == 1 else torch.nn.utils.get_total_norm([gather_whole(norm) for norm in norms])


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
