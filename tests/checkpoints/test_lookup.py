"""Checkpoints that are named: found by path or in the run's folder, and refused where they are cut off."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lgrpo_lightning import UserError
from lgrpo_lightning.checkpoints.lookup import find_named_checkpoint


def test_a_checkpoint_is_found_by_its_name(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "last.ckpt")
    torch.save({"a": 2}, tmp_path / "best.ckpt")
    assert find_named_checkpoint(None, tmp_path) == tmp_path / "last.ckpt"
    assert find_named_checkpoint("best.ckpt", tmp_path) == tmp_path / "best.ckpt"
    assert find_named_checkpoint(str(tmp_path / "best.ckpt"), Path("elsewhere")) == tmp_path / "best.ckpt"
    with pytest.raises(FileNotFoundError, match=r"no checkpoint other.ckpt .*: .*best.ckpt, .*last.ckpt"):
        find_named_checkpoint("other.ckpt", tmp_path)


@pytest.mark.parametrize(("size", "reason"), [(0, "it is empty"), (300, "cut off or damaged")])
def test_one_that_is_cut_off_is_refused(size: int, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"a": 1}, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=reason):
        find_named_checkpoint(None, tmp_path)
