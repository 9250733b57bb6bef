"""Model FLOPs utilisation: the share of a GPU's peak that the update's own arithmetic makes up."""

from __future__ import annotations

import torch

from lgrpo_lightning.policy import Policy
from lgrpo_lightning.policy.choice import count_linear_parameters
from lgrpo_lightning.policy.sharded_weights import is_divided

PEAK_TFLOPS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "4090": 165.0,
}
"""Dense bf16 peak by a part of the device's name, from the manufacturer's data sheets."""


def peak_flops(device_name: str) -> float | None:
    """Peak of a device in FLOP/s; None where it is not known.

    >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("a CPU")
    (989000000000000.0, None)
    """
    return next((tflops * 1e12 for part, tflops in PEAK_TFLOPS.items() if part in device_name), None)


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
