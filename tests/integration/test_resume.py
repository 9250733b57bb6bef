"""A run killed at some moment and resumed equals the uninterrupted one, bit for bit."""

import signal
import time
from pathlib import Path

import pytest

from tests.reliability.processes import RUN as UNVALIDATED
from tests.reliability.processes import Run, finished, same_run
from tests.runs import VALIDATED

RUN = UNVALIDATED | VALIDATED | {"data__validation__init_args__count": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("whole") / "run", **RUN)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("rollouts/rollout-000001-rank-000.parquet", marks=pytest.mark.slow),
        "rollouts/rollout-000002-rank-000.parquet",
        "checkpoints/.last.ckpt.part",
    ],
)
def test_kill_and_resume(moment: str, whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    run = Run(root, **RUN)
    deadline = time.monotonic() + 120
    while not (root / moment).exists():
        assert run.status() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0 if moment.endswith(".part") else 0.002)
    run.signalled(signal.SIGKILL)
    assert run.ended() == -signal.SIGKILL
    resumed_from = root / "checkpoints" / "last.ckpt"
    finished(root, log="2", **RUN, **({"ckpt_path": "last"} if resumed_from.exists() else {}))
    same_run(whole, root)
