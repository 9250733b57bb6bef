"""Stopping and starting again under SLURM."""

from __future__ import annotations

import os
import subprocess

from lightning.pytorch import Trainer

from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.errors import UserError


def requeue(trainer: Trainer) -> None:
    """Ask SLURM to start this job again, on rank 0. A task of an array is requeued alone."""
    if not trainer.is_global_zero:
        return
    job = find_job_id()
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserError(
            f"The job {job} could not be requeued: there is no scontrol on PATH. The checkpoint is written; "
            "submit the job again."
        ) from error
    if done.returncode != 0:
        raise UserError(
            f"SLURM refused to requeue the job {job} (scontrol: {done.stderr.strip() or done.returncode}). The "
            "checkpoint is written; submit the job again, with --requeue."
        )
    say(trainer, f"Asked SLURM to start the job {job} again (scontrol requeue); it resumes from last.ckpt.")


def find_job_id() -> str:
    """The job, or the task of an array: 1234 or 1234_5."""
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def count_restarts() -> int:
    """How often SLURM started this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)
