"""From every checkpoint that a run keeps it goes on exactly as the uninterrupted run did, to the bit."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.reliability.processes import finished_pair, same
from tests.runs import VALIDATED, fit, lgrpo, metrics, rollouts

STEPS = 14
RUN: dict[str, Any] = {
    "trainer__max_steps": STEPS,
    "trainer__val_check_interval": 2,
    **VALIDATED,
    "trainer__callbacks": json.dumps(
        [
            {"class_path": "RolloutCheckpoint", "init_args": {"every_n_rollouts": 1}},
            {"class_path": "BestCheckpoint", "init_args": {"save_top_k": -1}},
            {"class_path": "BestCheckpoint", "init_args": {"monitor": "val/reward", "filename": "top"}},
            {"class_path": "LastCheckpoint", "init_args": {"every_n_rollouts": 1}},
        ]
    ),
    "model__policy__dropout": 0.1,
    "model__updates__iterations": 2,
    "model__optimizer__init_args__lr": 2e-3,
    "data__train__init_args__count": 6,
    "data__validation__init_args__count": 2,
}
"""Seven rollouts over three epochs of three; validations at 0, 2, 4, 6 and 7."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("whole"), **RUN)


def loaded(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def after(start: int, table: pd.DataFrame) -> pd.DataFrame:
    return table[table["rollout"] >= start].reset_index(drop=True)


def validations(start: int, root: Path) -> pd.DataFrame:
    table = metrics(root).dropna(subset="val/avg@k")[["step", "val/avg@k", "val/accuracy"]]
    return table[table["step"] > 2 * start].drop_duplicates().reset_index(drop=True)


def test_what_is_there(whole: Path) -> None:
    names = {p.name for p in (whole / "checkpoints").iterdir()}
    best = {f"best-rollout-{n:06d}.ckpt" for n in (0, 2, 4, 6, 7)}
    others = {"last.ckpt", "last-previous.ckpt", "top.ckpt"}
    assert names == others | best | {f"rollout-{n:06d}.ckpt" for n in range(1, 8)}
    for name in names:
        at = loaded(whole / "checkpoints" / name)["lgrpo"]["rollout_index"]
        assert name in others or at == int(name[-11:-5]), name
    measured = metrics(whole).dropna(subset="val/reward")
    first = measured.sort_values("val/reward", ascending=False, kind="stable").iloc[0]
    assert loaded(whole / "checkpoints" / "top.ckpt")["global_step"] == first["step"]


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    ["rollout-000003.ckpt"]  # inside an epoch; others also at its end
    + [pytest.param(f"best-rollout-{n:06d}.ckpt", marks=pytest.mark.slow) for n in (0, 2, 4, 6)]
    + [pytest.param(f"rollout-{n:06d}.ckpt", marks=pytest.mark.slow) for n in (1, 2, 5, 6)],
)
def test_resumed_it_equals_the_uninterrupted_run(name: str, whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(whole, root)
    for other in (root / "checkpoints").iterdir():  # nothing but the one resumed from, and what it remembers
        if other.name.startswith(("last", "rollout")) and other.name != name:
            other.unlink()
    fit(root, ckpt_path=root / "checkpoints" / name, **RUN)
    one, two = (loaded(r / "checkpoints" / "last.ckpt") for r in (whole, root))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "lgrpo", "global_step"):
        same(one[part], two[part], part)
    same(
        {k: v for k, v in one["callbacks"].items() if "Best" in k},
        {k: v for k, v in two["callbacks"].items() if "Best" in k},
    )
    start = int(name[-11:-5])
    pd.testing.assert_frame_equal(after(start, rollouts(whole)), after(start, rollouts(root)), check_exact=True)
    pd.testing.assert_frame_equal(validations(start, whole), validations(start, root), check_exact=True)


@pytest.mark.slow
def test_the_end_of_a_run_goes_on_as_a_longer_run(whole: Path, tmp_path: Path) -> None:
    """``best-rollout-000007`` was written by the validation after the last rollout, past the loops' end."""
    longer = fit(tmp_path / "longer", **RUN | {"trainer__max_steps": STEPS + 6})
    root = tmp_path / "run"
    shutil.copytree(whole, root)
    at = root / "checkpoints" / "best-rollout-000007.ckpt"
    fit(root, ckpt_path=at, **RUN | {"trainer__max_steps": STEPS + 6})
    one, two = (loaded(r / "checkpoints" / "last.ckpt") for r in (longer, root))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "lgrpo", "global_step"):
        same(one[part], two[part], part)


@pytest.mark.parametrize(
    ("monitor", "changes", "said"),
    [
        (
            "val/avg@K",
            {},
            r"'val/avg@K', which validation does not log. Did you mean 'val/avg@k'\? It logs: val/acc",
        ),
        ("reward", {}, "'reward', which validation does not log"),
        ("val/avg@k", {"model__validation__k": 0}, "'val/avg@k', which validation does not log"),
        ("val/avg@k", {"data__validation": "null"}, "there is no validation set, so that nothing is ever"),
        ("val/avg@k", {"trainer__limit_val_batches": 0}, "trainer.limit_val_batches is 0, so that nothing"),
    ],
)
def test_a_metric_that_nothing_logs_is_refused_before_the_first_rollout(
    monitor: str, changes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = json.dumps([{"class_path": "BestCheckpoint", "init_args": {"monitor": monitor}}])
    if "data__validation" in changes:
        changes = changes | {"data__validation__init_args__count": None}
    assert lgrpo("fit", tmp_path, trainer__callbacks=callbacks, **VALIDATED | changes) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not list((tmp_path / "rollouts").glob("*.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_go_on_from_their_best(strategy: str, tmp_path: Path) -> None:
    two = RUN | {"trainer__strategy": strategy}
    root = finished_pair(tmp_path / "run", **two)
    whole = loaded(root / "checkpoints" / "last.ckpt")
    a = after(4, rollouts(root))
    at = root / "checkpoints" / "best-rollout-000004.ckpt"
    finished_pair(root, log="2", ckpt_path=at, **two)
    resumed = loaded(root / "checkpoints" / "last.ckpt")
    for part in ("state_dict", "optimizer_states", "lgrpo", "global_step"):
        same(whole[part], resumed[part], part)
    pd.testing.assert_frame_equal(a, after(4, rollouts(root)), check_exact=True)
