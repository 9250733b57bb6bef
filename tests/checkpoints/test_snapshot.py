"""A state that is held is a copy, but for what is large; and how many checkpoint files are kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lgrpo_lightning.checkpoints.checkpoint_file import CheckpointFile, put_in_place
from lgrpo_lightning.checkpoints.snapshot import LatestSnapshot, Snapshot
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


@pytest.mark.parametrize(
    ("step", "completed", "weights", "whole"),
    [(3, 3, [1.0, 2.0], True), (4, 3, [1.0, 2.0], False), (3, 2, [1.0, 2.0], False), (3, 3, [1.0, torch.nan], False)],
)
def test_what_may_be_written(step: int, completed: int, weights: list[float], whole: bool) -> None:
    """Not after an optimizer step, nor after half of one, nor where a weight is NaN."""
    total = SimpleNamespace(ready=3, completed=completed)
    optimization = SimpleNamespace(optim_step_progress=SimpleNamespace(total=total))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(manual_optimization=optimization))
    trainer: Any = SimpleNamespace(fit_loop=loop, global_step=step)
    state = {"global_step": 3, "state_dict": {"a": torch.ones(2), "b": torch.tensor(weights), "c": "extra"}}
    assert Snapshot.copy_state(state, 1).is_whole(trainer) is whole


def test_what_changes_after_a_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the epoch all of the state is taken anew; at its end only what callbacks hold, where that is other."""
    taken = list[int]()

    def take(trainer: Any, rollouts: int) -> Snapshot:
        taken.append(rollouts)
        return Snapshot(rollouts=rollouts, checkpoint={"callbacks": {}})

    monkeypatch.setattr(Snapshot, "take", take)
    held, states = LatestSnapshot(), dict[str, int]()
    trainer: Any = SimpleNamespace(callbacks=[SimpleNamespace(state_key="own", state_dict=lambda: states)])
    held.take(trainer, 1)
    assert held.renew(trainer, 2)
    held.leave_epoch()
    assert not held.renew(trainer, 3)
    states["best"] = 5
    assert held.renew(trainer, 3)
    assert not held.renew(trainer, 3)
    assert taken == [1, 2]


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
