"""What a checkpoint of another run, or of other ranks, can give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.lora import is_adapter_weight


def check_weights(saved: Mapping[str, Tensor], module: Any) -> None:
    """Refuse the weights of another model. ``saved`` is empty where a strategy loads them itself.

    Raises:
        ValueError: A weight is missing or has another shape; the message names it.
    """
    here = {name: tuple(weight.shape) for name, weight in module.state_dict().items()}
    if not saved or any(hasattr(parameter, "full_tensor") for parameter in module.parameters()):
        return
    there = {name: tuple(weight.shape) for name, weight in saved.items()}
    expected = here if module.strict_loading else {n: s for n, s in here.items() if is_adapter_weight(n)}
    other = sorted(n for n in {*expected, *there} if expected.get(n) != there.get(n))
    if other:
        name = other[0]
        was, now = (list(s[name]) if name in s else "absent" for s in (there, expected))
        raise UserError(
            f"The checkpoint is of another model: {len(other)} weights differ, such as {name}, {was} in the "
            f"checkpoint and {now} in this run. Set model.policy.path and model.policy.lora as they were (config.yaml "
            "beside the checkpoints), or start without --ckpt_path in another trainer.default_root_dir."
        )


def other_world_size(was: int, now: int) -> str:
    """What a run on another number of processes goes on with."""
    return (
        f"The checkpoint was made by {_processes(was)}, this run has {_processes(now)}: weights, optimizer, schedule, "
        "the place in the prompts and the sampling noise go on; random generators, which dropout uses, start anew "
        "from the seed, and sums are rounded in another order, so the run is not the same to the bit."
    )


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"
