from pathlib import Path

import pandas as pd
import pytest

from lgrpo_lightning.callbacks import LastCheckpoint, RolloutWriter
from tests.callbacks.stub import FailureError, StubModule, fit


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "rollouts").iterdir())


def test_one_file_per_rollout_that_pandas_reads_as_one_table(tmp_path: Path) -> None:
    fit(tmp_path)
    assert names(tmp_path) == [f"rollout-{i:06d}-rank-000.parquet" for i in range(5)]
    frame = pd.read_parquet(tmp_path / "rollouts")
    assert sorted(frame["rollout"].unique()) == [0, 1, 2, 3, 4]
    assert len(frame) == 15


def test_a_file_in_the_making_is_not_read(tmp_path: Path) -> None:
    fit(tmp_path)
    (tmp_path / "rollouts" / ".rollout-000005-rank-000.parquet.part").write_bytes(b"half")
    assert len(pd.read_parquet(tmp_path / "rollouts")) == 15


def test_written_before_the_update(tmp_path: Path) -> None:
    with pytest.raises(FailureError):
        fit(tmp_path, module=StubModule(fail=(1, "update")))
    assert len(names(tmp_path)) == 2


def test_resume_leaves_no_gap_and_no_duplicate(tmp_path: Path) -> None:
    with pytest.raises(FailureError):
        fit(tmp_path, LastCheckpoint(every_n_rollouts=1), module=StubModule(fail=(3, "update")))
    (tmp_path / "rollouts" / ".rollout-000003-rank-000.parquet.part").write_bytes(b"half")
    fit(tmp_path, module=StubModule(), ckpt_path="last")
    assert names(tmp_path) == [f"rollout-{i:06d}-rank-000.parquet" for i in range(5)]
    assert not (tmp_path / "rollouts.old-1").exists()


def test_a_fresh_run_keeps_the_rollouts_of_an_older_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        fit(tmp_path)
    assert len(pd.read_parquet(tmp_path / "rollouts.old-1")) == len(pd.read_parquet(tmp_path / "rollouts.old-2")) == 15
    assert len(names(tmp_path)) == 5
    assert f"The rollouts of an older run are kept in {tmp_path}/rollouts.old-1." in capsys.readouterr().out


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    fit(tmp_path, fast_dev_run=True)
    assert list(tmp_path.iterdir()) == []


def test_a_users_own_writer_is_the_only_one(tmp_path: Path) -> None:
    mine = RolloutWriter()
    module = fit(tmp_path, mine)
    assert [c for c in module.trainer.callbacks if isinstance(c, RolloutWriter)] == [mine]
