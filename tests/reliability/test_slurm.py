"""Under SLURM, with a stand-in for scontrol: the requeue signal stops in good order, a restarted job goes on."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.reliability.processes import IN_SAMPLING, RUN, SLOW, Run, finished, same_run

SECOND = "rollouts/rollout-000001-rank-000.parquet"
JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NNODES": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}


@pytest.fixture
def scontrol(tmp_path: Path) -> dict[str, str]:
    """The environment of a job whose scontrol writes down how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit ${{SCONTROL_STATUS:-0}}\n')
    script.chmod(0o755)
    return JOB | {"PATH": f"{folder}:{os.environ['PATH']}"}


def interrupted(root: Path, environment: dict[str, str], signum: int) -> Run:
    run = Run(root, environment=environment, **RUN | SLOW)
    run.until(SECOND)
    time.sleep(IN_SAMPLING)
    run.signalled(signum)
    return run


@pytest.mark.long
def test_requeued_and_resumed(scontrol: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "run"
    run = interrupted(root, scontrol, signal.SIGUSR1)
    assert run.ended(40) == 128 + signal.SIGUSR1
    assert "SIGUSR1 ended the run after 2 whole rollouts; the state after 2 is in" in run.said()
    assert (tmp_path / "calls").read_text() == "requeue 4711\n"
    assert not list(root.glob("hpc_ckpt*"))
    again = Run(root, log="2", environment=scontrol | {"SLURM_RESTART_COUNT": "1"}, **RUN | SLOW)
    assert again.ended() == 0, again.said()[-3000:]
    assert "SLURM started this job again (SLURM_RESTART_COUNT=1): resuming with --ckpt_path last." in again.said()
    same_run(finished(tmp_path / "whole", **RUN | SLOW), root)


@pytest.mark.long
def test_a_task_of_an_array_that_slurm_refuses(scontrol: dict[str, str], tmp_path: Path) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SCONTROL_STATUS": "1"}
    run = interrupted(tmp_path / "run", scontrol | array, signal.SIGUSR1)
    assert run.ended(40) == 2
    assert (tmp_path / "calls").read_text() == "requeue 12_3\n"
    assert "SLURM refused to requeue the job 12_3" in run.said()
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow
def test_preempted(scontrol: dict[str, str], tmp_path: Path) -> None:
    """SIGTERM: SLURM requeues by itself."""
    run = interrupted(tmp_path / "run", scontrol, signal.SIGTERM)
    assert run.ended(40) == 143
    assert not (tmp_path / "calls").exists()


@pytest.mark.long
def test_a_restarted_job_looks_where_its_checkpoints_are(tmp_path: Path) -> None:
    """In another ``dirpath`` of ``LastCheckpoint``, too."""
    elsewhere = {"class_path": "LastCheckpoint", "init_args": {"dirpath": str(tmp_path / "elsewhere")}}
    options = RUN | {"trainer__callbacks": json.dumps([elsewhere]), "trainer__max_steps": 2}
    root = finished(tmp_path / "run", **options)
    assert (tmp_path / "elsewhere" / "last.ckpt").exists()
    environment = JOB | {"SLURM_RESTART_COUNT": "1"}
    run = Run(root, log="2", environment=environment, **options | {"trainer__max_steps": 4})
    assert run.ended() == 0, run.said()[-3000:]
    assert "resuming with --ckpt_path last" in run.said()
    assert "Restored all states" in run.said()
