"""Two runs in one folder, early ends, and output that goes away."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lgrpo_lightning.commands.messages import lasting_output
from lgrpo_lightning.rollouts.lock import FolderLock
from tests.reliability.processes import RUN, Run, finished
from tests.runs import lgrpo_arguments, metrics


def test_a_second_run_in_the_folder_is_refused_and_a_killed_one_does_not_hold_it(tmp_path: Path) -> None:
    root = tmp_path / "run"
    first = Run(root, **RUN, model__reward_model="tests.reliability.rewards.Sleeps")
    first.until("sleeping")
    second = Run(root, log="2", **RUN)
    assert second.ended() == 2
    assert f"Another run writes into {root} (process {first.pid} on" in second.said()
    first.signalled(signal.SIGKILL)
    first.ended()
    assert finished(root, log="3", **RUN | {"trainer__max_steps": 2})


def test_the_lock_is_not_inherited(tmp_path: Path) -> None:
    lock = FolderLock()
    lock.take(tmp_path)
    lock.take(tmp_path)
    child = os.fork()
    if child == 0:
        try:
            FolderLock().take(tmp_path)
        except ValueError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    lock.release()
    FolderLock().take(tmp_path)


def test_an_exit_in_a_reward_is_no_success(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", **RUN, model__reward_model="tests.reliability.rewards.Exits")
    assert run.ended() not in (0, None)
    assert "called sys.exit(0)" in run.said()


@pytest.mark.long
def test_a_reward_that_closes_standard_output(tmp_path: Path) -> None:
    root = tmp_path / "run"
    run = Run(root, **RUN, trainer__enable_progress_bar="true",
              model__reward_model="tests.reliability.rewards.ClosesOutput")  # fmt: skip
    assert run.ended() == 0
    assert len(metrics(root)) >= 4


SHORT = {"trainer__max_steps": 2}


@pytest.mark.long
@pytest.mark.parametrize("output", ["pipe", pytest.param("full disk", marks=pytest.mark.slow), "closed"])
def test_a_run_outlives_its_output(output: str, tmp_path: Path) -> None:
    root = tmp_path / "run"
    command = [sys.executable, "-m", "lgrpo_lightning.cli",
               *lgrpo_arguments("fit", root, **SHORT, trainer__enable_progress_bar="true")]  # fmt: skip
    shell = {"pipe": " 2>&1 | head -n 1", "full disk": " > /dev/full", "closed": " >&-"}[output]
    script = 'set -o pipefail; "$@"' + shell
    done = subprocess.run(["bash", "-c", script, "bash", *command], env=os.environ | {"OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert (root / "checkpoints" / "last.ckpt").is_file()


def test_what_cannot_be_encoded_is_still_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with lasting_output(), pytest.raises(UnicodeEncodeError):
            print("λ")
