"""A validation that was due and cut off is made up for by the resumed run."""

import shutil
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

from lgrpo_lightning.callbacks import BestCheckpoint, LastCheckpoint
from lgrpo_lightning.callbacks.validate_at_ends import ValidateAtEnds
from tests.callbacks.stub import FailureError, StubModule, fit


class Validating(StubModule):
    """Remembers when it was validated; fails in the validation after so many rollouts."""

    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.fail_at = fail_at
        self.validated: list[int] = []

    def validation_step(self, item: int, batch_idx: int) -> None:
        if self.rollout_index == self.fail_at:
            raise FailureError("as asked")
        self.validated.append(self.rollout_index)
        super().validation_step(item, batch_idx)


@pytest.mark.parametrize(("at", "then"), [(2, [2, 4, 5]), (4, [4, 5]), (5, [5])])
def test_a_validation_that_was_cut_off(at: int, then: list[int], tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "limit_val_batches": 1,
        "val_check_interval": 2,
        "check_val_every_n_epoch": None,
    }
    with pytest.raises(FailureError):
        fit(tmp_path, ValidateAtEnds(), LastCheckpoint(1), module=Validating(at), **options)
    resumed = Validating()
    fit(tmp_path, ValidateAtEnds(), LastCheckpoint(1), module=resumed, ckpt_path="last", **options)
    assert resumed.validated == then
    assert resumed.seen == list(range(at, 5))


class Snapshots(StubModule):
    """Keeps a copy of the run's folder at every validation and every epoch's end, as a kill there would leave it."""

    def __init__(self, root: Path) -> None:
        super().__init__(rollouts=3)
        self.root = root

    def validation_step(self, item: int, batch_idx: int) -> None:
        self.on_train_epoch_end("validation")
        super().validation_step(item, batch_idx)

    def on_train_epoch_end(self, moment: str = "epoch") -> None:
        if self.rollout_index:
            shutil.copytree(self.root / "run", self.root / f"{moment}-{self.rollout_index}", dirs_exist_ok=True)


SLOW = pytest.mark.slow
EVERY_3 = {"val_check_interval": 3, "check_val_every_n_epoch": None}


@pytest.mark.parametrize(
    "options",
    [
        EVERY_3,
        EVERY_3 | {"max_steps": 8, "max_epochs": -1},
        pytest.param({"val_check_interval": 2, "check_val_every_n_epoch": None}, marks=SLOW),
        pytest.param({"val_check_interval": 2}, marks=SLOW),
        pytest.param({}, marks=SLOW),
        pytest.param({"check_val_every_n_epoch": 2}, marks=SLOW),
    ],
)
def test_killed_in_a_validation(options: dict[str, Any], tmp_path: Path) -> None:
    """The resumed run leaves the uninterrupted one's metrics, checkpoints and epochs."""

    def run(root: Path, module: StubModule, ckpt_path: str | None = None) -> list[Any]:
        callbacks = [ValidateAtEnds(), LastCheckpoint(1), BestCheckpoint("val/accuracy")]
        given = {"limit_val_batches": 1, "max_epochs": 2} | options
        fit(root, *callbacks, module=module, ckpt_path=ckpt_path, **given)
        table = pandas.read_csv(root / "metrics.csv").sort_index(axis=1)
        saved = [torch.load(root / "checkpoints" / f"{n}.ckpt", weights_only=True) for n in ("last", "best")]
        parts = ("callbacks", "epoch", "global_step", "stub", "state_dict", "optimizer_states")
        return [table.to_csv(), *(str({part: c[part] for part in parts}) for c in saved)]

    whole = run(tmp_path / "run", Snapshots(tmp_path))
    killed = [folder for folder in sorted(tmp_path.iterdir()) if folder.name != "run"]
    assert len(killed) >= 2
    for folder in killed:
        assert run(folder, StubModule(rollouts=3), ckpt_path="last") == whole, folder.name
