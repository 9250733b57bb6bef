"""A state that is held is a copy, but for what is large; and how many checkpoint files are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lgrpo_lightning.checkpoints.checkpoint_file import CheckpointFile, put_in_place
from lgrpo_lightning.checkpoints.snapshot import Snapshot
from lgrpo_lightning.distributed.sharded_reading import REST
from lgrpo_lightning.rollouts.queue import EARLIER


def test_weights_are_held_by_reference_and_the_rest_as_copies() -> None:
    state: dict[str, Any] = {name: {"x": [1]} for name in ("state_dict", EARLIER, "callbacks", "loops")}
    held = Snapshot.copy_state(state, 3)
    assert held.rollouts == 3
    for value in state.values():
        value["x"].append(2)
    kept = {name: value["x"] for name, value in held.checkpoint.items()}
    assert kept == {"state_dict": [1, 2], EARLIER: [1, 2], "callbacks": [1], "loops": [1]}


def test_what_a_run_resumes_from_is_held_without_weights() -> None:
    held = Snapshot.from_checkpoint({"state_dict": 1, "optimizer_states": 2, EARLIER: 3, "loops": 4}, 5)
    assert (held.rollouts, held.checkpoint) == (5, {"loops": 4})


@pytest.mark.parametrize(("options", "kept"), [({}, 1), ({"keep_previous": False}, None)])
def test_the_checkpoint_before_is_kept(options: dict[str, bool], kept: int | None, tmp_path: Path) -> None:
    checkpoints = CheckpointFile(tmp_path, **options)
    for n in (1, 2):
        torch.save(n, checkpoints.partial)
        checkpoints.publish()
    assert torch.load(checkpoints.last) == 2
    assert (torch.load(checkpoints.previous) if checkpoints.previous.exists() else None) == kept


@pytest.mark.parametrize("old", ["file", "folder"])
@pytest.mark.parametrize("new", ["file", "folder"])
def test_a_file_takes_a_folders_place_and_the_other_way_round(old: str, new: str, tmp_path: Path) -> None:
    def make(path: Path, kind: str, text: str) -> None:
        if kind == "folder":
            path.mkdir()
        (path / REST if kind == "folder" else path).write_text(text)

    path, partial = tmp_path / "x.ckpt", tmp_path / ".x.ckpt.part"
    make(path, old, "old")
    make(partial, new, "new")
    put_in_place(partial, path)
    assert (path / REST if new == "folder" else path).read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["x.ckpt"]
