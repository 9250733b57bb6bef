"""Importance-sampling correction between the engine that sampled and the policy that is trained."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from lgrpo_lightning.errors import UserError

ImportanceMode = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


def importance_weights(
    policy_logprobs: Tensor,
    sampler_logprobs: Tensor,
    mask: Tensor,
    *,
    mode: ImportanceMode = "sequence_mask",
    maximum: float | None = 3.0,
    minimum: float | None = None,
) -> Tensor:
    r"""Factor on each token's surrogate that corrects for a sampler whose log-probs are not quite the policy's.

    .. math:: w_{i,t} = \frac{\pi(y_{i,t})}{\mu(y_{i,t})} \;(\text{token}), \qquad
        w_i = \prod_t \frac{\pi(y_{i,t})}{\mu(y_{i,t})} \;(\text{sequence})

    with the policy π before the update and the sampler μ; the modes, bounds and defaults are those of TRL 1.16
    (``vllm_importance_sampling_…``). ``truncate`` clamps the ratio to the bounds, ``mask`` sets a ratio outside
    them to 0. It multiplies the clipped surrogate, not the KL term. Tokens whose sampler log-prob is NaN count as
    equal.

    Args:
        policy_logprobs, sampler_logprobs: ``[N, T]``.
        mask: ``[N, T]`` bool, the tokens that are trained.
        mode: "none" gives ones.
        maximum, minimum: The bounds; None is unbounded.

    Returns:
        ``[N, T]`` without gradient; a sequence's weight stands at each of its tokens.

    Raises:
        ValueError: The mode is unknown or the bounds do not fit it.

    >>> pi, mu = torch.tensor([[0.5, 0.2], [0.4, 0.9]]).log(), torch.tensor([[0.25, 0.1], [0.4, 0.6]]).log()
    >>> mask = torch.ones(2, 2, dtype=torch.bool)
    >>> importance_weights(pi, mu, mask).round(decimals=2).tolist()  # 2 x 2 is above 3; 1 x 1.5 is not
    [[0.0, 0.0], [1.5, 1.5]]
    >>> importance_weights(pi, mu, mask, mode="token_truncate", maximum=1.25).tolist()
    [[1.25, 1.25], [1.0, 1.25]]
    """
    check_importance(mode, maximum, minimum)
    if mode == "none":
        return torch.ones_like(policy_logprobs, dtype=torch.float32)
    with torch.no_grad():
        difference = torch.where(mask, policy_logprobs.float() - sampler_logprobs.float(), 0.0)
        difference = difference.nan_to_num(nan=0.0)
        if mode.startswith("sequence"):
            difference = difference.sum(-1, keepdim=True)
        ratio = difference.exp()
        if mode.endswith("truncate"):
            ratio = ratio.clamp(min=minimum, max=maximum)
        else:
            low = -torch.inf if minimum is None else minimum
            high = torch.inf if maximum is None else maximum
            ratio = ratio.masked_fill((ratio < low) | (ratio > high), 0.0)
        return ratio.expand_as(policy_logprobs).contiguous()


def check_importance(mode: str, maximum: float | None, minimum: float | None) -> None:
    """Refuse an unknown mode and bounds that do not fit it.

    Raises:
        ValueError: With what is possible.
    """
    possible = get_args(ImportanceMode)
    if mode not in possible:
        raise UserError(f"The importance mode is {mode!r}; possible are {', '.join(possible)}.")
    if maximum is not None and minimum is not None and minimum >= maximum:
        raise UserError(
            f"importance_min is {minimum} and importance_max {maximum}; the minimum must be the smaller one."
        )
    if mode.endswith("truncate") and maximum is None and minimum is None:
        raise UserError(f"The importance mode {mode!r} needs a maximum or a minimum; both are null.")


def importance_values(
    policy_logprobs: Tensor,
    sampler_logprobs: Tensor,
    weights: Tensor,
    mask: Tensor,
    *,
    mode: ImportanceMode = "sequence_mask",
) -> dict[str, Tensor]:
    """The numbers behind the ``sampling/…`` metrics, NaN where there is none: take their mean, largest and smallest.

    Args:
        weights: ``[N, T]``, what ``importance_weights`` gave.

    Returns:
        ``sampling/sampling_logp_difference``: ``[N, T]`` \\|log π - log μ\\| of every trained token that the sampler
        scored; ``sampling/importance_sampling_ratio``: the weight of every trained token ``[N, T]``, or of every
        sequence ``[N]``.

    >>> lp = torch.zeros(1, 2); found = importance_values(lp, lp - 0.5, torch.ones(1, 2), torch.ones(1, 2).bool())
    >>> {name: values.tolist() for name, values in found.items()}
    {'sampling/sampling_logp_difference': [[0.5, 0.5]], 'sampling/importance_sampling_ratio': [1.0]}
    """
    difference = (policy_logprobs.detach().float() - sampler_logprobs.float()).abs()
    whole = mode.startswith("sequence")
    ratios, counted = (weights[:, 0], mask.any(-1)) if whole else (weights, mask)
    # not ``difference[mask]``: the host would wait for the device to count what is left
    return {
        "sampling/sampling_logp_difference": torch.where(mask, difference, torch.nan),
        "sampling/importance_sampling_ratio": torch.where(counted, ratios, torch.nan),
    }
