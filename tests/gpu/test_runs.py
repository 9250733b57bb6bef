"""Whole runs on one GPU."""

from pathlib import Path

import pytest

from tests.gpu.machine import needs_gpus, started
from tests.runs import checkpoint, rollouts, train_metrics

pytestmark = [pytest.mark.gpu, needs_gpus(1)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("layout", ["padded", "tree"])
def test_a_run(precision: str, layout: str, tmp_path: Path) -> None:
    run = started(tmp_path, trainer__precision=precision, model__policy__layout=layout)
    table = train_metrics(run)
    assert len(table) == 3
    assert table[["loss", "grad_norm", "reward"]].notna().all().all()
    assert (table["grad_norm"] > 0).all()


def test_layouts_agree(tmp_path: Path) -> None:
    padded, tree = (
        started(tmp_path / layout, model__policy__layout=layout, model__updates__iterations=2)
        for layout in ("padded", "tree")
    )
    first = [rollouts(run).query("rollout == 0")["completion"].tolist() for run in (padded, tree)]
    assert first[0] == first[1]
    a, b = (train_metrics(run)["loss"].iloc[0] for run in (padded, tree))
    assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


def test_resume(tmp_path: Path) -> None:
    every = [{"class_path": "LastCheckpoint", "init_args": {"every_n_rollouts": 1}}]
    started(tmp_path, trainer__max_steps=2, trainer__callbacks=every)
    started(tmp_path, trainer__max_steps=4, trainer__callbacks=every, ckpt_path="last")
    assert checkpoint(tmp_path)["global_step"] == 4
    assert sorted(rollouts(tmp_path)["rollout"].unique()) == [0, 1, 2, 3]
