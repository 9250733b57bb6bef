"""What Lightning does not save: random number generators, the rollout counter, component state.

Plain tensors, numbers and strings only, so that checkpoints load with ``weights_only=True``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def read_rng_state() -> dict[str, Any]:
    """The state of python's, numpy's and torch's generators on this rank."""
    version, internal, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, cached = numpy
    return {
        "python": [version, list(internal), gauss],
        # weights_only=True loads tensors and no arrays, and not every torch has uint32
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put back what ``read_rng_state`` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


def read_component_state(components: Mapping[str, Any]) -> dict[str, Any]:
    """The ``state_dict()`` of every component that has one."""
    return {name: c.state_dict() for name, c in components.items() if hasattr(c, "state_dict")}


def load_component_state(components: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Hand each component its state back."""
    for name, component in components.items():
        if name in state and hasattr(component, "load_state_dict"):
            component.load_state_dict(state[name])
