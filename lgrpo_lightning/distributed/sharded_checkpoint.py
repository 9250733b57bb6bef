"""Checkpoints that are folders, one file a rank: reading them in any number of processes."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict, load
from torch.optim import Optimizer

from lgrpo_lightning.distributed.sharded_reading import (
    REST,
    CheckedReader,
    PlainPlanner,
    WholePlanner,
    find_damaged_entry,
)
from lgrpo_lightning.errors import UserError

OPTIMIZER = re.compile(r"optimizer_(\d+)")


def is_folder(path: str | Path) -> bool:
    """Whether ``path`` is a checkpoint written as a folder (``save_distributed_checkpoint``)."""
    return (Path(path) / REST).is_file()


@contextmanager
def refuse_pickles(path: str | Path) -> Iterator[None]:
    """Read a checkpoint inside: one that could run code, or a folder that is damaged, is refused with what to do."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise _explain_pickle(path, error) from error
    except (CheckpointException, OSError) as error:
        reason = next(e for e, _ in error.failures.values()) if isinstance(error, CheckpointException) else error
        if isinstance(reason, pickle.UnpicklingError):
            raise _explain_pickle(path, reason) from error
        if not Path(path).is_dir():
            raise
        there = ", ".join(sorted(p.name for p in Path(path).iterdir()))
        raise UserError(
            f"The checkpoint {path} cannot be read ({type(reason).__name__}: {reason}). In it: {there}. Every rank "
            "wrote a file: copy the folder with those of all nodes, or take another checkpoint."
        ) from error


def _explain_pickle(path: str | Path, error: Exception) -> ValueError:
    match = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f" ({match[1]})" if match else ""
    return UserError(
        f"The checkpoint {path} holds Python objects{what} beside tensors, numbers and text. Reading them can run "
        "code, so it was not read. If you trust who wrote it, and it is a file: --weights_only=false, in Python "
        "weights_only=False of the Trainer's call."
    )


def refuse_damaged(path: str | Path) -> None:
    """Refuse a file whose bytes do not have the checksums that were written with them."""
    if "://" not in str(path) and (bad := find_damaged_entry(Path(path))):
        raise UserError(
            f"The checkpoint {path} is damaged: its bytes are not those that were written ({bad}). Take another one."
        )


def read_entries(folder: str | Path) -> tuple[Any, Mapping[str, Any]]:
    """The reader of a folder and what its index names: weights and the state of optimizers, nothing else."""
    index = CheckedReader(folder)
    names: Mapping[str, Any] = index.read_metadata().state_dict_metadata
    for name, kind in names.items():
        part = name.partition(".")[0]
        if not (OPTIMIZER.fullmatch(part) or (part == "state_dict" and isinstance(kind, TensorStorageMetadata))):
            raise UserError(
                f"The checkpoint {folder} holds {name!r}, which no run writes. It was not read: take another one."
            )
    return index, names


def read_whole_checkpoint(path: str | Path, *, only_weights: bool = False) -> dict[str, Any]:
    """A folder as one dictionary of whole tensors, or only the weights.

    It needs no process group, and the memory for all of it.
    """
    folder, state = Path(path), dict[str, Any]()
    if not is_folder(folder):
        raise UserError(f"{folder} is no checkpoint: it has no {REST}, so its writing was cut off.")
    plan: Any = WholePlanner
    planner = plan({"state_dict"} if only_weights else None)
    with refuse_pickles(folder):
        index, _ = read_entries(folder)
        _load_state_dict(state, storage_reader=index, planner=planner, no_dist=True)
    states = {int(m[1]): state.pop(key) for key in list(state) if (m := OPTIMIZER.fullmatch(key))}
    return {**state, "optimizer_states": [states[i] for i in sorted(states)], **_read_rest(folder)}


def _read_rest(folder: Path) -> dict[str, Any]:
    """All that is neither weights nor optimizer."""
    refuse_damaged(path := folder / REST)
    with refuse_pickles(folder):
        rest: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return rest


def load_folder(path: Path, module: nn.Module, optimizers: Sequence[Optimizer], *, strict: bool) -> dict[str, Any]:
    """Take this rank's share of weights and optimizer state from a folder; all else that it holds. Collective.

    Args:
        strict: Refuse a folder that lacks weights; else they stay as they are (an adapter's checkpoint has no others).
    """
    with refuse_pickles(path):
        index, saved = read_entries(path)
        weights = get_model_state_dict(module)
        present = {name: tensor for name, tensor in weights.items() if f"state_dict.{name}" in saved}
        if strict and (missing := sorted(weights.keys() - present.keys())):
            raise UserError(f"The checkpoint {path} does not fit the model: it lacks {', '.join(missing[:3])}.")
        load({"state_dict": present}, storage_reader=index, planner=PlainPlanner())
        module.load_state_dict(present, strict=False)
        for i, optimizer in enumerate(optimizers):
            state = {f"optimizer_{i}": get_optimizer_state_dict(module, optimizer)}
            load(state, storage_reader=index, planner=PlainPlanner())
            set_optimizer_state_dict(module, optimizer, state[f"optimizer_{i}"])
    return _read_rest(path)


def list_parameter_names(module: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of the optimizer's parameters, in its order."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def renumber_parameters(state: Mapping[str, Any], keys: Mapping[Any, Any]) -> dict[str, Any]:
    """An optimizer's state with other keys for its parameters; keys that are not in ``keys`` stay.

    >>> renumber_parameters({"state": {"b": 5}, "param_groups": [{"lr": 1, "params": ["b"]}]}, {"a": 0, "b": 1})
    {'state': {1: 5}, 'param_groups': [{'lr': 1, 'params': [1]}]}
    """
    groups = [{**g, "params": [keys.get(p, p) for p in g["params"]]} for g in state["param_groups"]]
    return {"state": {keys.get(k, k): v for k, v in state["state"].items()}, "param_groups": groups}
