"""The index of a sharded checkpoint is a pickle: one that could run code is refused before it is read."""

import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from lgrpo_lightning.checkpoints.checkpoint_check import _folder
from lgrpo_lightning.strategies.sharded_checkpoint import whole_checkpoint
from lgrpo_lightning.strategies.sharded_metadata import reader


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
    assert "state_dict.weight" in reader(folder).read_metadata().state_dict_metadata
    assert whole_checkpoint(folder, only_weights=True)["state_dict"]["weight"].shape == (2, 3)
    assert not _folder(folder)


def test_a_hostile_index_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(ValueError, match="run code, so it was not read"):
        whole_checkpoint(folder)
    assert "no part of a checkpoint's index" in _folder(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", [("torch.distributed.checkpoint.filesystem", "os.system"), ("torch", "load")]
)
def test_functions_of_known_modules_are_no_classes(name: tuple[str, str], folder: Path) -> None:
    module, function = name
    words = pickle.PROTO + b"\x04" + b"\x8c" + bytes([len(module)]) + module.encode()
    words += b"\x8c" + bytes([len(function)]) + function.encode() + pickle.STACK_GLOBAL + pickle.STOP
    (folder / ".metadata").write_bytes(words)
    with pytest.raises(pickle.UnpicklingError, match="no part"):
        reader(folder)
