"""Whether a checkpoint is whole, told without loading it, and whether it fits this run."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lgrpo_lightning.distributed.sharded_reading import INDEX, REST, CheckedReader
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.lora import is_adapter_weight


def explain_unreadable(path: Path) -> str:
    """Why the checkpoint, a file or a folder of shards, is not whole; "" if it is.

    Looked at are the directory of a file and the sizes of what it names, not every byte of the weights.
    """
    return _check_folder(path) if path.is_dir() else _check_file(path)


def _check_file(path: Path) -> str:
    """What is wrong with a file of ``torch.save``: a zip archive with the directory at its end."""
    if not path.is_file():
        return "there is no such file"
    if path.stat().st_size == 0:
        return "it is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            if not pickled:
                return "it is a zip archive, but not one that torch.save writes"
            archive.read(pickled[0])  # checks its CRC
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        return f"it is cut off or damaged ({error})"
    return ""


def _check_folder(path: Path) -> str:
    """What is wrong with a folder of shards (torch.distributed.checkpoint) and ``meta.pt``."""
    for name in (INDEX, REST):
        if not (path / name).is_file():
            return f"the folder lacks {name}, so its writing was cut off"
    if reason := _check_file(path / REST):
        return f"{REST}: {reason}"
    try:
        entries = CheckedReader(path).read_metadata().storage_data
    except Exception as error:
        return f"{INDEX} is damaged ({type(error).__name__}: {error})"
    ends: dict[str, int] = {}
    for entry in entries.values():
        ends[entry.relative_path] = max(ends.get(entry.relative_path, 0), entry.offset + entry.length)
    for name, end in sorted(ends.items()):
        if not (path / name).is_file():
            return (
                f"the folder lacks the shard {name}. Every rank wrote a file: copy the folder with those of all nodes"
            )
        if (size := (path / name).stat().st_size) < end:
            return f"the shard {name} is cut off ({size} of {end} bytes)"
    return ""


def check_weights(saved: Mapping[str, Tensor], module: Any) -> None:
    """Refuse the weights of another model. ``saved`` is empty where a strategy loads them itself."""
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


def describe_world_size_change(was: int, now: int) -> str:
    """What a run on another number of processes goes on with."""
    return (
        f"The checkpoint was made by {_count_processes(was)}, this run has {_count_processes(now)}: weights, "
        "optimizer, schedule, the place in the prompts and the sampling noise go on; random generators, which dropout "
        "uses, start anew from the seed, and sums are rounded in another order, so the run is not the same to the bit."
    )


def _count_processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"
