"""Every schedule of the installed transformers: its rates are transformers' own, or it is refused by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import SchedulerType, get_scheduler

from lgrpo_lightning.training.optimizers import build_scheduler, read_rates, take_over_rates
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
        found.append(made.optimizer.param_groups[0]["lr"])
        made.optimizer.step()
        made.step()
    return found


@pytest.mark.parametrize("name", [kind.value for kind in SchedulerType])
def test_a_schedule_is_that_of_transformers_or_refused(name: str) -> None:
    kwargs = KWARGS.get(name, {})
    ours = Schedule(name=name, warmup_steps=2, kwargs=kwargs)
    if name in ("reduce_lr_on_plateau", "greedy"):
        with pytest.raises(ValueError, match=f"'{name}', which needs a metric at every step; possible are"):
            build_scheduler(optimizer(), ours, total_steps=10)
        return
    theirs = get_scheduler(name, optimizer(), 2, 10, scheduler_specific_kwargs=kwargs)
    assert rates(build_scheduler(optimizer(), ours, total_steps=10)) == rates(theirs)


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
        build_scheduler(optimizer(), Schedule(name=name, warmup_steps=2, kwargs=kwargs), total_steps=10)


def test_a_schedule_without_an_end_needs_none() -> None:
    stable = {"num_decay_steps": 3, "num_stable_steps": 5}
    for name, kwargs in (("inverse_sqrt", {}), ("constant", {}), ("warmup_stable_decay", stable)):
        build_scheduler(optimizer(), Schedule(name=name, kwargs=kwargs), total_steps=None)
    with pytest.raises(ValueError, match="needs to know where it ends"):
        build_scheduler(
            optimizer(), Schedule(name="warmup_stable_decay", kwargs={"num_decay_steps": 3}), total_steps=None
        )


def test_a_resumed_optimizer_takes_over_what_has_changed_and_nothing_else() -> None:
    def made(lr: float, **options: Any) -> tuple[Any, Any, list[dict[str, Any]]]:
        parameter = torch.nn.Parameter(torch.ones(1))
        parameter.grad = torch.ones(1)
        new = torch.optim.AdamW([parameter], lr=lr, **options)
        schedule = Schedule(name="cosine", warmup_steps=1)
        told = read_rates(new, schedule)
        return new, build_scheduler(new, schedule, total_steps=12), told

    def resumed(now: Any) -> str:
        now[0].load_state_dict(copy.deepcopy(old[0].state_dict()))
        now[1].load_state_dict(copy.deepcopy(old[1].state_dict()))
        return take_over_rates(now[0], now[1], now[2], old[2])

    old, whole = made(1e-3), made(1e-4, weight_decay=0.5)
    for optimizer, schedule, _ in (old, whole):
        for _ in range(4):
            optimizer.step()
            schedule.step()
    other = made(1e-4, weight_decay=0.5)
    assert resumed(other) == "lr: 0.001 -> 0.0001, weight_decay: 0.01 -> 0.5"
    assert rates(other[1])[:5] == rates(whole[1])[:5]
    assert other[0].param_groups[0]["weight_decay"] == 0.5
    same = made(1e-3)
    assert resumed(same) == ""
    assert same[0].state_dict() == old[0].state_dict()
