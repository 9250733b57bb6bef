"""One ``lgrpo fit`` in a process of its own, forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lgrpo_lightning.commands import run
from lgrpo_lightning.distributed.leaving import leave_soon, note_status
from lgrpo_lightning.distributed.processes import signal_at_parents_end
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.monitoring.plan import FINISHED, LOG
from lgrpo_lightning.rollouts.names import CONFIG, LAST_CHECKPOINT

LOCK = ".lock"
"""Held in a run's folder by the process that works there."""


def start_fit(words: Sequence[str], folder: Path, *, threads: int, forked: bool) -> BaseProcess:
    """Start ``lgrpo fit WORDS`` into ``folder``, where its log goes too; from its checkpoint where there is one.

    Args:
        threads: Of torch.
        forked: Whether it may run in the forked process itself; on several devices it needs a command line of its own.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch and Lightning are imported once for all runs
    process = context.Process(target=_fit, args=(list(words), folder, threads, forked, dict(os.environ)))
    process.start()
    return process


def runs_on_one_device(config: Mapping[str, Any]) -> bool:
    """Whether a complete configuration runs in one process."""
    trainer = config["trainer"]
    possible = ("1", "auto") if trainer.get("accelerator") == "cpu" else ("1",)
    return str(trainer.get("devices")) in possible and int(trainer.get("num_nodes") or 1) == 1


def print_config(words: Sequence[str]) -> str:
    """What ``lgrpo fit WORDS --print_config`` prints: the configuration with all its defaults."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            status = run.main(["fit", *words, "--print_config"])
        except SystemExit as stop:
            status = int(stop.code or 0)
    if status:
        raise UserError(errors.getvalue().strip().removeprefix("lgrpo: "))
    return out.getvalue()


def _fit(words: list[str], folder: Path, threads: int, forked: bool, environment: dict[str, str]) -> None:
    """In the new process."""
    signal_at_parents_end(signal.SIGTERM)
    os.environ.update(environment, OMP_NUM_THREADS=str(threads))
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    lock = os.open(folder / LOCK, os.O_WRONLY | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)  # a process of a comparison that was killed may still be at it
    if (folder / FINISHED).exists():
        return
    words = ["fit", *words, f"--trainer.default_root_dir={folder}"]
    if (folder / LAST_CHECKPOINT).exists() and (folder / CONFIG).exists():
        words.append("--ckpt_path=last")
    if not forked:
        os.set_inheritable(lock, True)  # it stays locked beyond exec
        os.execv(sys.executable, [sys.executable, "-m", "lgrpo_lightning.cli", *words])
    import torch

    torch.set_num_threads(threads)
    sys.argv = ["lgrpo", *words]
    note_status(status := run.main(words))
    leave_soon()
    sys.stdout.flush()
    sys.exit(status)
