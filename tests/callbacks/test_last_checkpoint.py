import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy

from lgrpo_lightning.callbacks import LastCheckpoint
from lgrpo_lightning.callbacks.validate_at_ends import ValidateAtEnds
from tests.callbacks.stub import FailureError, StubModule, fit


def last(root: Path) -> dict[str, Any]:
    return torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)


def rollouts(root: Path) -> int:
    return last(root)["stub"]["rollout_index"]


def same(a: StubModule, b: StubModule) -> bool:
    mine, theirs = a.trainer.optimizers[0].state_dict(), b.trainer.optimizers[0].state_dict()
    return torch.equal(a.weight, b.weight) and all(
        torch.equal(x, theirs["state"][0][name]) for name, x in mine["state"][0].items()
    )


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rollouts done at each write."""
    done: list[int] = []
    save = SingleDeviceStrategy.save_checkpoint

    def spy(self: Any, checkpoint: dict[str, Any], filepath: str, storage_options: Any = None) -> None:
        if ".last.ckpt.part" in str(filepath):
            done.append(checkpoint["stub"]["rollout_index"])
        save(self, checkpoint, filepath, storage_options)

    monkeypatch.setattr(SingleDeviceStrategy, "save_checkpoint", spy)
    return done


def test_counts_rollouts_and_is_there_at_the_end(tmp_path: Path, written: list[int]) -> None:
    fit(tmp_path, LastCheckpoint(every_n_rollouts=2), module=StubModule(steps=3))
    assert written == [2, 4, 5]
    assert rollouts(tmp_path) == 5
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["last-previous.ckpt", "last.ckpt"]
    previous = torch.load(tmp_path / "checkpoints" / "last-previous.ckpt", weights_only=True)
    assert previous["stub"]["rollout_index"] == 4
    fit(tmp_path / "lean", LastCheckpoint(every_n_rollouts=2, keep_previous=False))
    assert [p.name for p in (tmp_path / "lean" / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": -1, "max_steps": 6},
        {"limit_train_batches": 3},
        {"max_epochs": 2, "limit_train_batches": 2},
    ],
)
def test_written_once_at_whatever_ends_the_run(tmp_path: Path, written: list[int], options: dict[str, Any]) -> None:
    fit(tmp_path, **options)
    assert written == [4 if options.get("max_epochs") == 2 else 3]


def test_stopping_early_is_an_end_too(tmp_path: Path, written: list[int]) -> None:
    stop = EarlyStopping("val/accuracy", mode="min", patience=1)
    fit(tmp_path, stop, limit_val_batches=1, val_check_interval=1, check_val_every_n_epoch=None)
    assert written == [2]


@pytest.mark.parametrize("when", ["sample", "update"])
@pytest.mark.parametrize("at", [1, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
@pytest.mark.parametrize("validate", [False, True])
def test_cut_short_and_resumed_equals_uninterrupted(tmp_path: Path, when: str, at: int, validate: bool) -> None:
    options = {"limit_val_batches": 1, "val_check_interval": 2} if validate else {}
    options |= {"max_epochs": 2, "limit_train_batches": 3}
    whole = fit(tmp_path / "whole", LastCheckpoint(every_n_rollouts=1), module=StubModule(rollouts=3), **options)
    with pytest.raises(FailureError):
        fit(
            tmp_path / "cut",
            LastCheckpoint(every_n_rollouts=1),
            module=StubModule(rollouts=3, fail=(at, when)),
            **options,
        )
    assert rollouts(tmp_path / "cut") == at
    resumed = fit(tmp_path / "cut", module=StubModule(rollouts=3), ckpt_path="last", **options)
    assert resumed.seen == whole.seen[at:]
    assert same(whole, resumed)


def test_exception_while_sampling_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = fit(tmp_path / "whole")
    with pytest.raises(FailureError):
        fit(tmp_path, module=StubModule(fail=(3, "sample")))
    assert rollouts(tmp_path) == 3
    said = capsys.readouterr().out
    assert "FailureError ended the run after 3 whole rollouts; the state after 3 is in" in said
    assert same(whole, fit(tmp_path, ckpt_path="last"))


def test_exception_in_an_update_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    with pytest.raises(FailureError):
        fit(tmp_path, LastCheckpoint(every_n_rollouts=2), module=StubModule(fail=(3, "update")))
    assert rollouts(tmp_path) == 2
    assert same(fit(tmp_path / "whole"), fit(tmp_path, ckpt_path="last"))


class HalfStep(torch.optim.SGD):
    """Changes the weight and then runs out of memory, from its ``at``-th step on."""

    taken, at = 0, 5

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        self.taken += 1
        if self.taken >= self.at:
            raise torch.OutOfMemoryError("in the middle of a step")


def test_an_optimizer_step_that_fails_half_way_is_not_saved(tmp_path: Path, written: list[int]) -> None:
    class Module(StubModule):
        def configure_optimizers(self) -> Any:
            return HalfStep(self.parameters(), lr=0.1)

    with pytest.raises(torch.OutOfMemoryError):  # in the first of two steps of rollout 2
        fit(tmp_path, LastCheckpoint(every_n_rollouts=1), module=Module())
    assert written == [1, 2]
    with pytest.raises(torch.OutOfMemoryError):
        fit(tmp_path / "seldom", LastCheckpoint(every_n_rollouts=10), module=Module())
    assert not (tmp_path / "seldom" / "checkpoints" / "last.ckpt").exists()


def test_ctrl_c_keeps_the_state(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fit(tmp_path, module=StubModule(fail=(2, "sample"), error=KeyboardInterrupt))
    assert rollouts(tmp_path) == 2


def test_nothing_is_saved_before_the_first_rollout_or_if_not_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FailureError):
        fit(tmp_path, module=StubModule(fail=(0, "sample")))
    assert "after 0 whole rollouts; nothing new is saved" in capsys.readouterr().out
    with pytest.raises(FailureError):
        fit(tmp_path, LastCheckpoint(save_on_exception=False), module=StubModule(fail=(3, "sample")))
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_more_epochs_after_the_end_equal_one_long_run(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", max_epochs=2)
    fit(tmp_path / "two", max_epochs=1)
    resumed = fit(tmp_path / "two", ckpt_path="last", max_epochs=2)
    assert resumed.rollout_index == 10
    assert same(whole, resumed)


def test_more_steps_after_the_end_equal_one_long_run(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", max_epochs=-1, max_steps=14)
    fit(tmp_path / "two", max_epochs=-1, max_steps=6)
    resumed = fit(tmp_path / "two", ckpt_path="last", max_epochs=-1, max_steps=14)
    assert resumed.seen == [3, 4, 0, 1]
    assert same(whole, resumed)


def test_state_of_callbacks_after_validation_is_kept(tmp_path: Path) -> None:
    best = ModelCheckpoint(monitor="val/accuracy", mode="max", filename="best")
    fit(tmp_path, best, limit_val_batches=1)
    states = last(tmp_path)["callbacks"]
    (state,) = [s for name, s in states.items() if name.startswith("ModelCheckpoint")]
    assert state["best_model_score"] == pytest.approx(0.5)


def test_killed_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    fit(tmp_path, limit_train_batches=2)

    def half(self: Any, checkpoint: Any, filepath: str, storage_options: Any = None) -> None:
        Path(filepath).write_bytes(b"half a checkpoint")
        raise OSError(28, "as a disk without room does")

    options = {"max_epochs": 2, "limit_train_batches": 2}
    monkeypatch.setattr(SingleDeviceStrategy, "save_checkpoint", half)
    with pytest.raises(OSError, match="No room to write"):
        fit(tmp_path, LastCheckpoint(every_n_rollouts=3), ckpt_path="last", **options)
    monkeypatch.undo()
    assert "DiskFullError ended the run after 3 whole rollouts; the state after 2 is in" in capsys.readouterr().out
    assert rollouts(tmp_path) == 2
    assert (tmp_path / "checkpoints" / ".last.ckpt.part").exists()
    capsys.readouterr()
    fit(tmp_path, ckpt_path="last", **options)
    assert rollouts(tmp_path) == 4
    assert "a checkpoint whose writing was cut off" in capsys.readouterr().out


def test_a_fresh_run_keeps_the_checkpoint_of_an_older_one(tmp_path: Path) -> None:
    fit(tmp_path, limit_train_batches=1)
    fit(tmp_path, limit_train_batches=2)
    assert rollouts(tmp_path) == 2
    assert torch.load(tmp_path / "checkpoints/old-1-last.ckpt", weights_only=True)["stub"]["rollout_index"] == 1


def test_resumed_with_nothing_left_to_do_writes_nothing(tmp_path: Path, written: list[int]) -> None:
    fit(tmp_path)
    fit(tmp_path, ckpt_path="last")
    assert written == [5]


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match="enable_checkpointing: false"):
        LastCheckpoint(every_n_rollouts=0)


def test_an_epoch_that_ends_unforeseen(tmp_path: Path, written: list[int]) -> None:
    class Module(StubModule):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if self.rollout_index == 3 else None

    fit(tmp_path, LastCheckpoint(save_on_exception=False), module=Module())
    assert written == [3]


def test_sigterm_keeps_the_state(tmp_path: Path) -> None:
    class Module(StubModule):
        def training_step(self, item: int, batch_idx: int) -> None:
            super().training_step(item, batch_idx)
            if self.rollout_index == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        fit(tmp_path, module=Module())
    assert rollouts(tmp_path) == 3
    assert same(fit(tmp_path / "whole"), fit(tmp_path, ckpt_path="last"))


def test_validation_after_the_last_rollout_does_not_spoil_the_state(tmp_path: Path) -> None:
    options = {
        "limit_val_batches": 1,
        "val_check_interval": 2,
        "check_val_every_n_epoch": None,
        "max_epochs": -1,
    }
    whole = fit(tmp_path / "whole", ValidateAtEnds(), max_steps=14, **options)
    best = ModelCheckpoint(monitor="val/accuracy", mode="max")
    fit(tmp_path / "two", ValidateAtEnds(), best, max_steps=6, **options)
    (state,) = [s for name, s in last(tmp_path / "two")["callbacks"].items() if name.startswith("ModelCheckpoint")]
    assert state["best_model_score"] == pytest.approx(0.3)
    assert same(whole, fit(tmp_path / "two", ValidateAtEnds(), ckpt_path="last", max_steps=14, **options))
