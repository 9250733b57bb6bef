"""Handing weights to an engine: as a stream, or as files that another process reads."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.distributed.processes import is_process_gone
from lgrpo_lightning.errors import NotFoundError

Weights = Iterator[tuple[str, Tensor]]
SHARD_BYTES = 2**30
PREFIX = "lgrpo-weights-"


def cast(weights: Weights, dtype: str) -> Weights:
    """The weights in the engine's type, one at a time; integers as they are."""
    target: torch.dtype = getattr(torch, dtype)
    for name, tensor in weights:
        yield name, (tensor.detach().to(target) if tensor.is_floating_point() else tensor.detach())


def write_weights(weights: Weights, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> Path:
    """Write the weights into ``folder`` as numbered safetensors files, about ``shard_bytes`` in memory at a time.

    They are written beside it and renamed, so that ``folder`` is complete as soon as it exists.
    """
    from safetensors.torch import save_file

    beside = folder.with_name(folder.name + ".writing")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    shard: dict[str, Tensor] = {}
    size = number = 0
    for name, tensor in weights:
        shard[name] = tensor.to("cpu", copy=True).contiguous()  # tied tensors must not share memory in a file
        size += tensor.numel() * tensor.element_size()
        if size >= shard_bytes:
            save_file(shard, beside / f"{number:05d}.safetensors")
            shard, size, number = {}, 0, number + 1
    if shard:
        save_file(shard, beside / f"{number:05d}.safetensors")
    shutil.rmtree(folder, ignore_errors=True)
    return beside.rename(folder)


def read_weights(folder: str | Path) -> Weights:
    """What ``write_weights`` wrote, in the same order of files, one tensor at a time."""
    from safetensors import safe_open

    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise NotFoundError(
            f"There are no weights in {folder} as seen by this process. Set sampler.server.weights_dir to a folder "
            "that the training process and the server both see."
        )
    for file in files:
        with safe_open(file, framework="pt") as reader:
            for name in reader.keys():  # noqa: SIM118 - not a mapping
                yield name, reader.get_tensor(name)


@contextmanager
def open_weights_folder(chosen: str | None) -> Iterator[Path]:
    """A new private folder to hand weights over in, removed afterwards; where none is chosen, in memory."""
    where = chosen or ("/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None)
    if where is not None:
        Path(where).mkdir(parents=True, exist_ok=True)
    _remove_leftovers(Path(where or tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(
        prefix=f"{PREFIX}{socket.gethostname()}-{os.getpid()}-", dir=where, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _remove_leftovers(where: Path) -> None:
    """Remove what processes of this machine and user left that were killed."""
    for folder in where.glob(f"{PREFIX}{socket.gethostname()}-*"):
        pid = folder.name.removeprefix(f"{PREFIX}{socket.gethostname()}-").partition("-")[0]
        if pid.isdigit() and folder.owner() == getpass.getuser() and is_process_gone(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def write_description(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Write what an engine is built from: configuration and tokenizer, no weights.

    So the engine fits the policy wherever that came from: a hub, a GGUF file, random weights, a LoRA on top.
    """
    config = model.config
    config.save_pretrained(folder)
    if not config.architectures:
        import json

        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": [type(model).__name__]}))
    tokenizer.save_pretrained(folder)
    return folder


SIGNATURE = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings",
)  # fmt: skip


def describe_model(config: Any) -> dict[str, Any]:
    """What two Hugging Face configurations must share for the weights of one to fit the other."""
    text = config.get_text_config()
    return {name: value for name in SIGNATURE if (value := getattr(text, name, None)) is not None}
