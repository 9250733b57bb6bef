"""Weights of another model are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lgrpo_lightning.checkpoints.checkpoint_check import check_weights, describe_world_size_change


class Module(torch.nn.Module):
    """A weight of each kind."""

    def __init__(self, *, strict_loading: bool = True) -> None:
        super().__init__()
        self.strict_loading = strict_loading
        self.base = torch.nn.Linear(2, 3, bias=False)
        adapter = torch.nn.ModuleDict({"default": torch.nn.Linear(3, 1, bias=False)})
        self.q = torch.nn.ModuleDict({"lora_A": adapter})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"base.weight": None}, r"1 weights differ, such as base\.weight, absent in the checkpoint and \[3, 2\]"),
        ({"base.weight": (2, 3)}, r"base\.weight, \[2, 3\] in the checkpoint and \[3, 2\] in this run"),
        ({"a": (1,), "z": (1,)}, r"2 weights differ, such as a, \[1\] in the checkpoint and absent in this run"),
    ],
)  # fmt: skip
def test_weights_of_another_model(change: dict[str, Any], says: str | None) -> None:
    module = Module()
    shapes = {name: tuple(weight.shape) for name, weight in module.state_dict().items()} | change
    saved = {name: torch.zeros(shape) for name, shape in shapes.items() if shape}
    if says is None:
        check_weights(saved, module)
    else:
        with pytest.raises(ValueError, match=says):
            check_weights(saved, module)
    check_weights({}, module)  # a strategy loads them itself


def test_sharded_weights_are_not_compared() -> None:
    """Nor are they where only some are, as under tensor parallelism: a part of a weight has another shape."""
    module = Module()
    module.base.weight.full_tensor = None  # type: ignore[attr-defined]
    check_weights({"another": torch.zeros(1)}, module)


def test_adapters_alone_are_saved() -> None:
    adapter = {"q.lora_A.default.weight": torch.zeros(1, 3)}
    check_weights(adapter, Module(strict_loading=False))
    with pytest.raises(ValueError, match=r"such as base\.weight"):
        check_weights(adapter, Module())


def test_numbers_of_processes() -> None:
    assert "was made by 2 processes, this run has 1 process:" in describe_world_size_change(2, 1)
