"""Optimizers by class path: fused AdamW, and 8-bit ones of other packages where they are installed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import checkpoint, fit, lgrpo_arguments
from tests.several import commands

RUN = {"trainer__accelerator": "cpu"}
FUSED = {"model__optimizer__init_args__lr": 1e-3, "model__optimizer__init_args__fused": "true"}
EIGHT_BIT = [("bitsandbytes.optim.AdamW8bit", {"min_8bit_size": 1}), ("torchao.optim.AdamW8bit", {})]


def weights(root: Path) -> dict[str, torch.Tensor]:
    found: Any = checkpoint(root)["state_dict"]
    return found


@pytest.mark.slow
def test_fused_adamw_alone_and_sharded(tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", **RUN, model__optimizer__init_args__lr=1e-3)
    fused = fit(tmp_path / "fused", **RUN, **FUSED)
    sharded: dict[str, Any] = {"trainer__devices": 2, "trainer__strategy": "fsdp2", **RUN, **FUSED}
    commands([lgrpo_arguments("fit", tmp_path / "fsdp2", **sharded)])
    for other in (weights(fused), weights(tmp_path / "fsdp2")):
        for name, tensor in weights(plain).items():  # eps 1e-8: where a gradient is near 0, rounding grows
            assert (tensor - other[name]).abs().mean() < 1e-5, name
    groups: Any = checkpoint(fused)["optimizer_states"]
    assert groups[0]["param_groups"][0]["fused"] is True


@pytest.mark.parametrize(("path", "more"), EIGHT_BIT, ids=["bitsandbytes", "torchao"])
def test_8_bit(path: str, more: dict[str, Any], tmp_path: Path) -> None:
    package = path.partition(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed; it is no dependency")
    options: dict[str, Any] = {**RUN, "model__optimizer": path, "model__optimizer__init_args__lr": 1e-3}
    options |= {f"model__optimizer__init_args__{key}": value for key, value in more.items()}
    fit(tmp_path / "run", trainer__max_steps=3, **options)
    state: Any = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=False)["optimizer_states"]
    kinds = {t.dtype for s in state[0]["state"].values() for t in tensors(s)}
    assert torch.uint8 in kinds
    fit(tmp_path / "run", trainer__max_steps=5, ckpt_path="last", **options)
    whole = fit(tmp_path / "whole", trainer__max_steps=5, **options)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(tmp_path / "run")[name]), name


def tensors(state: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors of a parameter's state, nested ones and those that they are made of too."""
    found = list[torch.Tensor]()
    for value in state.values():
        if isinstance(value, dict):
            found += tensors(value)
        elif isinstance(value, torch.Tensor):
            found += [value, *(inner for inner in vars(value).values() if isinstance(inner, torch.Tensor))]
    return found
