"""Signal and noise of gradients, by hand and in a run."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lgrpo_lightning.training import Updates
from lgrpo_lightning.training.gradient_noise import GradientNoise
from lgrpo_lightning.training.settings import check_gradient_snr
from tests.runs import fit, train_metrics


def noise_of(gradients: list[torch.Tensor], tokens: list[int]) -> float:
    """``gradients`` [M, D]: what each pass adds."""
    parameter = nn.Parameter(torch.zeros(gradients[0].shape))
    noise = GradientNoise([parameter])
    parameter.grad = torch.zeros_like(parameter)
    for gradient, n in zip(gradients, tokens, strict=True):
        parameter.grad += gradient
        noise.saw(torch.tensor(n))
    return noise.ratio


def test_by_hand() -> None:
    """Two passes of a token each: means 2 and 0 about G = 1, so that tr Σ = ((2 - 1)² + (0 - 1)²) / 2 = 1."""
    assert noise_of([torch.tensor([1.0]), torch.tensor([0.0])], [1, 1]) == pytest.approx(0.0)
    assert noise_of([torch.tensor([0.75]), torch.tensor([0.25])], [1, 1]) == pytest.approx(3.0)


def test_the_definition_over_uneven_passes() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = [3, 5, 2, 7]
    per_token = [torch.randn(n, 11, generator=generator) + 0.7 for n in tokens]
    total = sum(tokens)
    parts = [rows.sum(0) / total for rows in per_token]
    whole = sum(parts, torch.zeros(11))
    spread = sum(n * float((p * total / n - whole).square().sum()) for p, n in zip(parts, tokens, strict=True))
    noise = spread / (len(tokens) - 1) / total
    expected = (float(whole.square().sum()) - noise) / noise
    assert noise_of(parts, tokens) == pytest.approx(expected, rel=1e-5)


def test_it_is_unbiased() -> None:
    """Mean of the noise over many draws: the variance of the mean of N tokens."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(400):
        rows = torch.randn(20, 5, generator=generator) + 1.0
        parts = [rows[:4].sum(0) / 20, rows[4:14].sum(0) / 20, rows[14:].sum(0) / 20]
        ratio = noise_of(parts, [4, 10, 6])
        whole = float((sum(parts, torch.zeros(5))).square().sum())
        found.append(whole / (ratio + 1))
    assert sum(found) / len(found) == pytest.approx(5 / 20, rel=0.1)


def test_one_pass_tells_nothing() -> None:
    assert math.isnan(noise_of([torch.tensor([1.0])], [4]))


@pytest.mark.long
def test_a_run_logs_it_and_trains_as_without(tmp_path: Path) -> None:
    small = {"model__policy__micro_batch_tokens": 30}
    plain = fit(tmp_path / "plain", **small)
    noted = fit(tmp_path / "noted", **small, model__updates__gradient_snr="true")
    assert "gradient_snr" not in train_metrics(plain)
    assert train_metrics(noted)["gradient_snr"].notna().any()
    assert (train_metrics(noted)["loss"] == train_metrics(plain)["loss"]).all()


def test_several_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="this run has 2"):
        check_gradient_snr(SimpleNamespace(world_size=2), Updates(gradient_snr=True))
    check_gradient_snr(SimpleNamespace(world_size=1), Updates(gradient_snr=True))
