"""The folder of a run: the names in it, and writing files that are whole or not there."""

from lgrpo_lightning.run_folder.names import (
    CHECKPOINTS,
    CONFIG,
    LAST_CHECKPOINT,
    METRICS,
    NONFINITE,
    PLOT,
    ROLLOUTS,
    set_aside,
    show_path,
)
from lgrpo_lightning.run_folder.whole_files import (
    DiskFullError,
    UnwritableError,
    explain_if_unwritable,
    flush_to_disk,
    whole_file,
    write_whole,
)

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "LAST_CHECKPOINT",
    "METRICS",
    "NONFINITE",
    "PLOT",
    "ROLLOUTS",
    "DiskFullError",
    "UnwritableError",
    "explain_if_unwritable",
    "flush_to_disk",
    "set_aside",
    "show_path",
    "whole_file",
    "write_whole",
]
