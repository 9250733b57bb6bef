"""How much of an optimizer step's gradient is signal."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lgrpo_lightning.monitoring.metrics import Means


class GradientNoise:
    r"""Compares the gradients of the passes (micro-batches) of an optimizer step.

    .. math:: \mathrm{SNR} = \frac{\|G\|^2 - \mathrm{tr} \Sigma}{\mathrm{tr} \Sigma}, \quad
        \mathrm{tr} \Sigma = \frac{1}{N (M - 1)} \sum_m n_m \Bigl\| \frac{N}{n_m} g_m - G \Bigr\|^2

    with the step's gradient G = Σ g_m over M passes of n_m of its N trained tokens: Σ is the covariance of G that the
    spread of the passes tells of, and the first difference takes the noise out of the squared norm. 1 is as much signal
    as noise; below 0 is noise alone. The inverse times N is the simple noise scale (arXiv:1812.06162), in tokens.

    It holds a copy of the gradient.

    Args:
        parameters: Those that are trained; without any nothing is compared.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.before = [torch.zeros_like(p) for p in self.parameters]
        self.passes: list[tuple[float, float]] = []  # (squared norm, tokens)

    @torch.no_grad()
    def saw(self, tokens: Tensor) -> None:
        """The gradients of a pass over so many trained tokens have just been added."""
        if not self.parameters:
            return
        now = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters]
        if count := float(tokens):
            self.passes.append((_squared(a - b for a, b in zip(now, self.before, strict=True)), count))
        self.before = now

    @property
    def ratio(self) -> float:
        """Signal to noise; NaN with fewer than two passes."""
        if len(self.passes) < 2:
            return math.nan
        total = sum(n for _, n in self.passes)
        whole = _squared(self.before)
        spread = sum(square * total**2 / n for square, n in self.passes) - total * whole
        noise = spread / (len(self.passes) - 1) / total
        return (whole - noise) / noise if noise > 0 else math.nan

    def log(self, means: Means) -> None:
        """Count the ratio into the metrics, where there is one."""
        if not math.isnan(ratio := self.ratio):
            means.put("gradient_snr", ratio)


def _squared(gradients: Iterable[Tensor]) -> float:
    return float(sum((g.double().square().sum() for g in gradients), torch.zeros((), dtype=torch.double)))
