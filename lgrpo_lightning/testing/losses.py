"""Checks that a policy loss fulfils its contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from lgrpo_lightning.contracts import Level, PolicyLoss
from lgrpo_lightning.functional.losses import Normalizer
from lgrpo_lightning.testing.toys import toy_loss_input
from lgrpo_lightning.types import LossInput


def check_loss(loss: PolicyLoss, *, tolerance: float = 1e-5) -> Tensor:
    """Assert that ``loss`` fulfils its contract, and return its terms for two completions.

    Checked are shapes and values, that a completion's terms and gradient are its own, whatever stands beside it, in
    which order and behind it as padding, that a worth of 0 costs nothing, and that ``level`` is so.

    Args:
        tolerance: Largest difference that counts as rounding.
    """
    name = type(loss).__name__
    batch = toy_loss_input(
        ratios=[[1.0, 1.3, 0.6], [0.9, 5.0, 1.0]],
        advantages=[[1.0, 1.0, 1.0], [-0.5, -0.5, -0.5]],
        logprobs=[[-1.0, -0.1, -2.0], [-0.5, -3.0, -1.0]],
    )
    shape = batch.mask.shape
    found = loss.terms(batch).shape
    assert found == shape, f"{name}: terms are {tuple(found)}, not {tuple(shape)}"
    terms = _terms(loss, batch)
    assert bool(terms.isfinite().all()), f"{name}: terms or gradient are not finite"
    for row in range(2):
        alone = _terms(loss, _change(batch, lambda _, value: value[[row]]))  # noqa: B023 - called here
        _compare(alone, terms[:, [row]], tolerance, f"{name}: another completion changes the")
    wide = _terms(loss, _change(batch, _widen))
    _compare(wide[..., :3], terms, tolerance, f"{name}: padding changes the")
    worthless = _terms(loss, replace(batch, advantages=torch.zeros_like(batch.advantages)))
    assert not bool(worthless[1].any()), f"{name}: an advantage of 0 has a gradient"
    assert loss.normalizer in get_args(Normalizer), f"{name}: normalizer is {loss.normalizer!r}"
    assert loss.level in get_args(Level), f"{name}: level is {loss.level!r}"
    for what, values in {"ratio": loss.ratio(batch), **loss.metrics(batch)}.items():
        assert values.shape == shape, f"{name}: {what} is {tuple(values.shape)}, not {tuple(shape)}"
    if loss.level == "token":
        first = torch.autograd.grad(loss.terms(batch)[:, 0].sum(), batch.logprobs)[0]
        assert not bool(first[:, 1:].any()), (
            f"{name}: level is 'token', but a token's term has a gradient on other tokens; say level = 'sequence'"
        )
    return terms[0]


def _terms(loss: PolicyLoss, batch: LossInput) -> Tensor:
    """``[2, N, T]``: terms, and the gradient of their sum over the mask; 0 off the mask."""
    batch = replace(batch, logprobs=batch.logprobs.detach().requires_grad_())
    terms = torch.where(batch.mask, loss.terms(batch), 0.0)
    return torch.stack([terms.detach(), torch.autograd.grad(terms.sum(), batch.logprobs)[0]])


def _compare(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    for part, a, b in zip(("terms", "gradient"), found, expected, strict=True):
        assert torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance), f"{what} {part}"


def _change(batch: LossInput, change: Callable[[str, Tensor], Tensor]) -> LossInput:
    there = {name: value.detach() for name, value in vars(batch).items() if value is not None}
    return replace(batch, **{name: change(name, value) for name, value in there.items()})


def _widen(name: str, value: Tensor) -> Tensor:
    """Two more tokens that are not trained, of any value."""
    padding = {"mask": False, "logprobs": -7.0, "old_logprobs": 3.0}
    return torch.nn.functional.pad(value, (0, 2), value=padding.get(name, 0.5))
