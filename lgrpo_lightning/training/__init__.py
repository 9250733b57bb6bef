"""What one run is made of beside its components: options, updates, metrics, state."""

from lgrpo_lightning.strategies.fsdp2 import FSDP2Strategy
from lgrpo_lightning.training.objective import Objective
from lgrpo_lightning.training.options import Schedule, Updates, Validation

__all__ = ["FSDP2Strategy", "Objective", "Schedule", "Updates", "Validation"]


def __getattr__(name: str) -> None:
    if name == "Loss":  # what it is now, for who wrote against it
        raise ImportError(
            "lgrpo_lightning.training.Loss is two things now: a policy loss, ClippedSurrogate(clip_low, clip_high, "
            "normalizer) of lgrpo_lightning.losses, and Objective(kl_coef, importance, …) of lgrpo_lightning.training; "
            "GRPOModule(loss=…, objective=…)."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
