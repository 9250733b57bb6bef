"""Every schedule of the installed transformers: its rates are transformers' own, or it is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import SchedulerType, get_scheduler

from lgrpo_lightning.training.optimizers import scheduler
from lgrpo_lightning.training.options import Schedule

KWARGS: dict[str, dict[str, Any]] = {
    "cosine_with_restarts": {"num_cycles": 2},
    "polynomial": {"power": 2.0, "lr_end": 1e-5},
    "inverse_sqrt": {"timescale": 4},
    "cosine_with_min_lr": {"min_lr": 1e-4},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2},
    "warmup_stable_decay": {"num_decay_steps": 3, "min_lr_ratio": 0.1, "decay_type": "linear"},
}


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)


def rates(made: Any) -> list[float]:
    """The rate of each of twelve steps."""
    found = []
    for _ in range(12):
        found.append(made.get_last_lr()[0])
        made.optimizer.step()
        made.step()
    return found


@pytest.mark.parametrize("name", [kind.value for kind in SchedulerType])
def test_a_schedule_is_that_of_transformers_or_refused(name: str) -> None:
    kwargs = KWARGS.get(name, {})
    ours = Schedule(name=name, warmup_steps=2, kwargs=kwargs)
    if name in ("reduce_lr_on_plateau", "greedy"):
        with pytest.raises(ValueError, match=f"'{name}', which needs a metric at every step; possible are"):
            scheduler(optimizer(), ours, total_steps=10)
        return
    theirs = get_scheduler(name, optimizer(), 2, 10, scheduler_specific_kwargs=kwargs)
    assert rates(scheduler(optimizer(), ours, total_steps=10)) == rates(theirs)


@pytest.mark.parametrize(
    ("name", "kwargs", "says"),
    [
        ("cosine_with_min_lr", {"min_lr_rat": 0.1}, "has min_lr_rat; cosine_with_min_lr takes min_lr, min_lr_rate"),
        ("constant_with_warmup", {"num_cycles": 1}, "has num_cycles; constant_with_warmup takes none"),
        ("linear", {"last_epoch": 3}, "has last_epoch; linear takes none"),
        ("cosine_with_min_lr", {}, "One of min_lr or min_lr_rate"),
        ("warmup_stable_decay", {}, "num_decay_steps"),
        ("cosine_with_min_lr", {"min_lr_rate": "0.1x"}, "cosine_with_min_lr' with schedule.kwargs"),
        ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1, "warmup_lr_rate": -1.0}, "below 0 or not finite"),
        ("polynomial", {"power": float("nan")}, "below 0 or not finite"),
    ],
)  # fmt: skip
def test_arguments_that_are_not_possible_are_refused(name: str, kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        scheduler(optimizer(), Schedule(name=name, warmup_steps=2, kwargs=kwargs), total_steps=10)


def test_a_schedule_without_an_end_needs_none() -> None:
    stable = {"num_decay_steps": 3, "num_stable_steps": 5}
    for name, kwargs in (("inverse_sqrt", {}), ("constant", {}), ("warmup_stable_decay", stable)):
        scheduler(optimizer(), Schedule(name=name, kwargs=kwargs), total_steps=None)
    with pytest.raises(ValueError, match="needs to know where it ends"):
        scheduler(
            optimizer(), Schedule(name="warmup_stable_decay", kwargs={"num_decay_steps": 3}), total_steps=None
        )
