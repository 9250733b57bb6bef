"""The processes of a run are to be given the same: compared before the first rollout."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import islice
from types import FunctionType
from typing import Any

from lgrpo_lightning.checkpoints.code import read_code
from lgrpo_lightning.distributed.ranks import gather
from lgrpo_lightning.errors import UserError

OWN = re.compile(r"(^|_)(devices?|urls?|hosts?|ports?|keys?|secrets?|passwords?)$|^kwargs$|_dir$")
"""Names of options that each process may have its own value of, or whose value is nobody's business."""
TRAINER = (
    "max_steps",
    "max_epochs",
    "val_check_interval",
    "check_val_every_n_epoch",
    "limit_train_batches",
    "limit_val_batches",
    "overfit_batches",
    "precision",
)
"""Options of the Trainer that decide what is computed."""


def check_alike(trainer: Any, own: Mapping[str, Any]) -> None:
    """Refuse ranks whose ``own`` values, by name, differ. Collective.

    Raises:
        ValueError: On every rank, with the names and both values.
    """
    first, *others = gather(trainer, dict(own))
    different = [
        f"  {name} is {first[name]} on rank 0, {value} on rank {rank}"
        for rank, other in enumerate(others, 1)
        for name, value in other.items()
        if first.get(name, value) != value
    ]
    if different:
        raise UserError(
            "The processes of this run were not given the same:\n"
            + "\n".join(different[:20])
            + "\nGive all of them one configuration, the same data and the same packages."
        )


def describe_run(module: Any) -> dict[str, str]:
    """Name → text of what decides a run: options, data, code; as far as it can be told before the model is loaded."""
    trainer, data = module.trainer, module.trainer.datamodule
    options = {
        "seed_everything": os.environ.get("PL_GLOBAL_SEED"),
        "trainer.strategy": type(trainer.strategy).__name__,
        "a checkpoint to resume from (ckpt_path)": trainer.ckpt_path is not None,
        **{f"trainer.{name}": getattr(trainer, name) for name in TRAINER},
        **{
            name: f"prompts {digests['content']} in the order {digests['order']}"
            for name, digests in getattr(data, "fingerprints", {}).items()
        },
    }
    code = read_code({**module.components.by_name, "loss": module.loss})
    return {
        **{name: str(value) for name, value in options.items()},
        **dict(_options("model.policy", module.policy_config)),
        **dict(_options("model", module.components)),
        **dict(_options("model", module)),
        **dict(_options("data", data)),
        **{f"the file of {name}" if "." in name else name: value for name, value in code.items()},
    }


def _options(key: str, held: Any, depth: int = 5) -> Iterator[tuple[str, str]]:
    """(key, text) of each option that ``held`` keeps under the name of the argument of its ``__init__``."""
    if held is None or isinstance(held, bool | int | float | str | FunctionType):
        yield key, held.__qualname__ if isinstance(held, FunctionType) else repr(held)
    elif isinstance(held, list | tuple | dict) and depth:
        items = held.items() if isinstance(held, dict) else enumerate(held)
        yield key, f"{len(held)} long"
        for name, item in islice(items, 100):
            yield from _options(f"{key}.{name}", item, depth - 1)
    elif hasattr(held, "__dict__") and depth and not isinstance(held, type):
        yield key, type(held).__name__
        for name in _arguments(held):
            if not OWN.search(name) and name in vars(held):
                yield from _options(f"{key}.{name}", vars(held)[name], depth - 1)


def _arguments(held: Any) -> list[str]:
    if is_dataclass(held):
        return [field.name for field in fields(held) if field.init]
    try:
        return list(inspect.signature(type(held)).parameters)
    except (TypeError, ValueError):  # written in C
        return []
