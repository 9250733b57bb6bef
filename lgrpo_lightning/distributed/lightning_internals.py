"""Every private part of Lightning that this library reads or replaces; tried on Lightning 2.6.6."""

from __future__ import annotations

import math
import threading
from typing import Any

from lightning.pytorch import Trainer


def stop_signals(trainer: Any) -> Any:
    """What handles signals in the trainer where ``replace_signal_handling`` put it there, else None."""
    handling = trainer._signal_connector
    return handling if hasattr(handling, "at_end") else None


def replace_signal_handling(trainer: Any, handling: Any) -> None:
    """Lightning's handlers broadcast wherever they come, and under SLURM save in the middle of a rollout."""
    trainer._signal_connector = handling


def cluster_environment(trainer: Any) -> Any:
    """SLURM's, torchrun's or Lightning's own; a strategy of one device has none."""
    return trainer._accelerator_connector.cluster_environment


def disarm_child_observer() -> None:
    """A thread of the launcher kills this process once a child has ended; ``RankWatch`` saves and reports."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined]


def process_group_timeout(trainer: Trainer) -> float:
    """Seconds after which a collective fails; no strategy shows what it was given."""
    timeout = getattr(trainer.strategy, "_timeout", None)
    return math.inf if timeout is None else float(timeout.total_seconds())


def set_root_folder(trainer: Any, folder: str) -> None:
    """``default_root_dir`` cannot be set once the trainer is made, and changes with the working directory."""
    trainer._default_root_dir = folder
