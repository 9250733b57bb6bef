"""Reading a sharded checkpoint runs no code of its index or its shards, and a flipped bit is found."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

from lgrpo_lightning.checkpoints.checkpoint_check import _check_folder
from lgrpo_lightning.checkpoints.checkpoint_io import AtomicCheckpointIO
from lgrpo_lightning.distributed.sharded_checkpoint import load_folder, read_whole_checkpoint
from lgrpo_lightning.distributed.sharded_reading import CheckedReader


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"state_dict": model.state_dict(), "optimizer_0": {"step": 1, "state": optimizer.state_dict()}}
    for dtype in (torch.bfloat16, torch.float16, torch.int64, torch.bool):
        state["state_dict"][f"as_{dtype}"] = torch.zeros(2, dtype=dtype)  # type: ignore[index]
    dcp.save(state, checkpoint_id=tmp_path / "sharded", no_dist=True)
    torch.save({}, tmp_path / "sharded" / "meta.pt")
    return tmp_path / "sharded"


def test_what_torch_writes_is_read(folder: Path) -> None:
    assert "state_dict.weight" in CheckedReader(folder).read_metadata().state_dict_metadata
    assert read_whole_checkpoint(folder, only_weights=True)["state_dict"]["weight"].shape == (2, 3)
    assert not _check_folder(folder)


def test_a_hostile_index_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(ValueError, match="run code, so it was not read"):
        read_whole_checkpoint(folder)
    assert "no part of a checkpoint's index" in _check_folder(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [("torch.distributed.checkpoint.filesystem", "os.system"), ("torch", "load")])
def test_functions_of_known_modules_are_no_classes(name: tuple[str, str], folder: Path) -> None:
    module, function = name
    words = pickle.PROTO + b"\x04" + b"\x8c" + bytes([len(module)]) + module.encode()
    words += b"\x8c" + bytes([len(function)]) + function.encode() + pickle.STACK_GLOBAL + pickle.STOP
    (folder / ".metadata").write_bytes(words)
    with pytest.raises(pickle.UnpicklingError, match="no part"):
        CheckedReader(folder)


def _save(state: dict[str, object], folder: Path) -> Path:
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    torch.save({}, folder / "meta.pt")
    return folder


def _load_folder(folder: Path) -> None:
    model = torch.nn.Linear(3, 2)
    load_folder(folder, model, [torch.optim.AdamW(model.parameters())], strict=True)


@pytest.mark.parametrize("read", [read_whole_checkpoint, _load_folder])
@pytest.mark.parametrize("entry", ["state_dict", "optimizer_0", "other"])
def test_a_pickle_among_the_shards_is_not_run(read: Callable[[Path], object], entry: str, tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    state: dict[str, dict[str, object]] = {
        "state_dict": dict(get_model_state_dict(model)),
        "optimizer_0": dict(get_optimizer_state_dict(model, optimizer)),
    }
    if entry == "optimizer_0":  # in the place of an entry that a run reads
        state[entry]["param_groups"][0]["lr"] = Hostile(tmp_path / "ran")  # type: ignore[index]
    else:
        state.setdefault(entry, {})["more"] = Hostile(tmp_path / "ran")
    folder = _save(state, tmp_path / "sharded")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="was not read"):
        read(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("read", [read_whole_checkpoint, _load_folder])
def test_a_flipped_bit_in_a_shard_is_found(read: Callable[[Path], object], tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    state = {
        "state_dict": get_model_state_dict(model),
        "optimizer_0": get_optimizer_state_dict(model, optimizer),
    }
    folder = _save(state, tmp_path / "sharded")
    read(folder)
    _flip(folder / "__0_0.distcp", model.weight.detach().numpy().tobytes())
    with pytest.raises(ValueError, match=r"state_dict\.weight in __0_0\.distcp is damaged"):
        read(folder)


def test_a_flipped_bit_in_a_file_is_found(tmp_path: Path) -> None:
    weight = torch.randn(64)
    torch.save({"state_dict": {"weight": weight}}, path := tmp_path / "a.ckpt")
    assert AtomicCheckpointIO().load_checkpoint(path)["state_dict"]["weight"].equal(weight)
    _flip(path, weight.numpy().tobytes())
    with pytest.raises(ValueError, match="is damaged"):
        AtomicCheckpointIO().load_checkpoint(path)


def _flip(path: Path, found: bytes) -> None:
    """Flip one bit of ``found`` in the file."""
    data = bytearray(path.read_bytes())
    data[data.index(found) + 3] ^= 0x40  # the exponent of the first number
    path.write_bytes(data)
