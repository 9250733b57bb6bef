"""A validation that was due and cut off is made up for by the resumed run."""

from pathlib import Path
from typing import Any

import pytest

from lgrpo_lightning.callbacks import LastCheckpoint
from lgrpo_lightning.training.validate_at_ends import ValidateAtEnds
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
