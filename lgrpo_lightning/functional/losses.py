"""Per-token loss terms and their aggregation. Every term is a loss: to be minimised."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Normalizer = Literal["token", "sequence", "constant", "completion"]
KLEstimator = Literal["k1", "k2", "k3"]


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    delta: float | None = None,
) -> Tensor:
    r"""The clipped policy-gradient loss of each token (PPO, arXiv:1707.06347; DAPO, arXiv:2503.14476).

    .. math:: -\min(\min(\rho, \delta) A,\; \mathrm{clip}(\rho, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A),
        \quad \rho = e^{\log\pi - \log\pi_{old}}

    Args:
        logprobs, old_logprobs: ``[N, T]``.
        advantages: ``[N, T]``.
        clip_low, clip_high: The ratio's distance from 1 below and above.
        delta: Largest ratio where the advantage is negative (dual clip, arXiv:1912.09729); None: unbounded.

    Returns:
        ``[N, T]``.

    >>> clipped_surrogate(torch.tensor([0.5]), torch.tensor([0.0]), torch.tensor([2.0])).tolist()
    [-2.4000000953674316]
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    bounded = ratio if delta is None else ratio.clamp(max=delta)
    return -torch.minimum(bounded * advantages, clipped * advantages)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, *, estimator: KLEstimator = "k3") -> Tensor:
    r"""An estimate of KL(π ‖ π_ref) at each token, sampled from π (Schulman 2020).

    .. math:: k_1 = -d, \quad k_2 = d^2 / 2, \quad k_3 = e^d - d - 1, \quad d = \log\pi_{ref} - \log\pi

    >>> pi, ref = torch.tensor([0.0]), torch.tensor([-1.0])
    >>> [round(kl_estimate(pi, ref, estimator=k).item(), 4) for k in ("k1", "k2", "k3")]
    [1.0, 0.5, 0.3679]
    """
    d = ref_logprobs - logprobs
    if estimator == "k1":
        return -d
    return d.square() / 2 if estimator == "k2" else d.exp() - d - 1


def k3_kl(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    r"""The k3 estimate of KL(π ‖ π_ref) at each token (Schulman 2020).

    .. math:: e^d - d - 1, \quad d = \log\pi_{ref} - \log\pi

    >>> k3_kl(torch.tensor([0.0]), torch.tensor([0.0])).item()
    0.0
    """
    return kl_estimate(logprobs, ref_logprobs, estimator="k3")


def aggregate(
    per_token: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    by: Normalizer = "token",
    normalizer: float | Tensor | None = None,
    length: int | None = None,
) -> Tensor:
    """One number from per-token losses. The only place where a mask is applied.

    ========== =============================================== =============================
    ``by``     sum                                             default ``normalizer``
    ========== =============================================== =============================
    token      over all tokens (DAPO)                          ``mask.sum()``
    sequence   of each row's mean over its tokens (GRPO)       number of rows
    constant   over all tokens (Dr.GRPO)                       rows x ``length``
    completion over all tokens (LUSPO)                         number of rows
    ========== =============================================== =============================

    Args:
        per_token: ``[N, T]`` losses; what stands where ``mask`` is False is ignored, NaN included.
        mask: ``[N, T]`` bool, the tokens that are trained.
        weights: ``[N, T]`` factor on each token's term; normalisers count tokens, not weights.
        by: The normaliser.
        normalizer: The normaliser of the whole optimizer step where this call sees only a part of it.
        length: Longest possible completion, for ``by="constant"``.

    Returns:
        A scalar.

    >>> terms, mask = torch.tensor([[1.0, 1.0], [4.0, 9.0]]), torch.tensor([[True, True], [True, False]])
    >>> aggregate(terms, mask).item(), aggregate(terms, mask, by="sequence").item()
    (2.0, 2.5)
    """
    terms = torch.where(mask, per_token if weights is None else per_token * weights, 0.0)
    if by == "sequence":
        terms = terms / mask.sum(-1, keepdim=True).clamp(min=1)
    if normalizer is None:
        normalizer = default_normalizer(mask, by=by, length=length)
    return terms.sum() / normalizer


def default_normalizer(mask: Tensor, *, by: Normalizer, length: int | None = None) -> Tensor:
    """What ``aggregate`` divides by for these rows: a scalar that adds up over micro-batches and ranks."""
    rows = torch.tensor(len(mask), device=mask.device)
    if by == "token":
        return mask.sum()
    if by in ("sequence", "completion"):
        return rows
    if by == "constant":
        if length is None:
            raise ValueError("by='constant' needs length=, the longest possible completion.")
        return rows * length
    raise ValueError(f"by is {by!r}; possible are 'token', 'sequence', 'constant' and 'completion'.")
