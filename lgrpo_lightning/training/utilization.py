"""Model FLOPs utilisation: the share of a GPU's peak that the update's own arithmetic makes up."""

from __future__ import annotations

import torch

from lgrpo_lightning.policy import Policy
from lgrpo_lightning.policy.choice import count_linear_parameters
from lgrpo_lightning.policy.sharded_weights import is_divided
from lgrpo_lightning.training.hardware import find_gpu


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 peak of a device in FLOP/s; None where it is not known.

    >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("a CPU")
    (989000000000000.0, None)
    """
    sheet = find_gpu(device_name)
    return None if sheet is None else sheet.bf16 * 1e12


def utilization(*, parameters: int, tokens: int, passes: int, seconds: float, peak: float) -> float:
    """Share of ``peak``: 6 FLOPs per parameter and token for a forward and backward pass (Kaplan et al. 2020).

    Args:
        parameters: Of the linear layers, head included.
        tokens: Computed in a pass over the rollout.
        passes: Over the rollout.
        seconds: Of the update.
        peak: In FLOP/s.

    >>> utilization(parameters=10**9, tokens=1000, passes=1, seconds=0.1, peak=1e14)
    0.6
    """
    return 6 * parameters * tokens * passes / seconds / peak


def utilization_metrics(policy: Policy, *, passes: int, seconds: float) -> dict[str, float]:
    """``mfu``, the ``utilization`` of this rank's GPU in an update; nothing on a CPU or a GPU of unknown peak."""
    peak = peak_flops(torch.cuda.get_device_name(policy.device)) if policy.device.type == "cuda" else None
    if peak is None or policy.choice is None:
        return {}
    tokens, parameters = policy.choice.computed, count_linear_parameters(policy.model)
    if (division := policy.division) is not None:
        divided = sum(p.numel() for p in policy.parameters() if p.dim() > 1 and is_divided(p))
        parameters -= divided - divided // division.mesh.size()
    return {"mfu": utilization(parameters=parameters, tokens=tokens, passes=passes, seconds=seconds, peak=peak)}
