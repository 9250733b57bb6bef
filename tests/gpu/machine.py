"""What the tests of this folder need, and on what they run.

    pytest -m gpu tests/gpu

runs everything a machine has the GPUs and packages for, and says what it skipped and why. With
``LGRPO_GPU_TESTS_ON=cpu`` the same tests run on CPU ranks and kernels, which shows that they work, not that CUDA does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.runs import lgrpo_arguments

ON_CPU = os.environ.get("LGRPO_GPU_TESTS_ON") == "cpu"
DEVICE = "cpu" if ON_CPU else "cuda"
GPUS = torch.cuda.device_count()
TRAINER = {"trainer__accelerator": "cpu" if ON_CPU else "gpu"}


def needs_gpus(count: int) -> pytest.MarkDecorator:
    """Skip where there are fewer GPUs."""
    return pytest.mark.skipif(not ON_CPU and count > GPUS, reason=f"needs {count} CUDA device(s); here are {GPUS}")


needs_cuda = pytest.mark.skipif(ON_CPU or not GPUS, reason="needs CUDA itself, which LGRPO_GPU_TESTS_ON=cpu replaces")
needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="vLLM is not installed: pip install 'lgrpo_lightning[vllm]'"
)


def started(root: Path, **changes: object) -> Path:
    """A small `lgrpo fit` in a process of its own that ends well; its folder."""
    options = {key: json.dumps(v) if isinstance(v, dict | list) else v for key, v in changes.items()}
    done = subprocess.run(
        [sys.executable, "-m", "lgrpo_lightning.cli", *lgrpo_arguments("fit", root, **(TRAINER | options))],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return root
