"""What one run is made of beside its components: options, updates, metrics, state."""

from lgrpo_lightning.distributed.fsdp2 import FSDP2Strategy
from lgrpo_lightning.training.options import Objective, Schedule, Updates, Validation

__all__ = ["FSDP2Strategy", "Objective", "Schedule", "Updates", "Validation"]
