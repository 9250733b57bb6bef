"""A run killed at some moment and resumed equals the uninterrupted one, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.reliability.processes import same
from tests.runs import checkpoint, lgrpo_arguments, rollouts

EVERY_ROLLOUT = json.dumps([{"class_path": "LastCheckpoint", "init_args": {"every_n_rollouts": 1}}])
RUN = {
    "trainer__max_steps": 8,
    "trainer__callbacks": EVERY_ROLLOUT,
    "model__policy__dropout": 0.1,
    "model__updates__iterations": 2,
    "data__train__init_args__count": 6,
    "data__prompts_per_step": 2,
}
"""Four rollouts over two epochs, two updates each, with dropout: every generator and position matters."""


def started(root: Path, **extra: object) -> subprocess.Popen[bytes]:
    arguments = lgrpo_arguments("fit", root, **RUN, **extra)
    return subprocess.Popen(
        [sys.executable, "-m", "lgrpo_lightning.cli", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finished(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-3000:]


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0 if path.suffix == ".part" else 0.002)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    finished(started(root))
    return root


@pytest.mark.parametrize(
    "moment",
    [
        "rollouts/rollout-000001-rank-000.parquet",
        "rollouts/rollout-000002-rank-000.parquet",
        "checkpoints/.last.ckpt.part",
    ],
)
def test_kill_and_resume(moment: str, whole: Path, tmp_path: Path) -> None:
    process = started(tmp_path)
    names = {p.name for p in (whole / "rollouts").iterdir()}
    target = tmp_path / moment
    tmp_path.joinpath("checkpoints").mkdir()
    if "rollouts" in moment:
        assert target.name in names, names
    wait_for(target, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed_from = tmp_path / "checkpoints" / "last.ckpt"
    finished(started(tmp_path, **({"ckpt_path": "last"} if resumed_from.exists() else {})))
    a, b = checkpoint(whole), checkpoint(tmp_path)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "lgrpo", "global_step"):
        same(a[part], b[part], part)
    pd.testing.assert_frame_equal(rollouts(whole), rollouts(tmp_path), check_exact=True)
