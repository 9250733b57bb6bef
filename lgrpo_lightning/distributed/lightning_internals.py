"""Every private part of Lightning that this library reads or replaces; tried on Lightning 2.6.6."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop


def find_stop_signals(trainer: Any) -> Any:
    """What handles signals in the trainer where ``replace_signal_handling`` put it there, else None."""
    handling = trainer._signal_connector
    return handling if hasattr(handling, "at_end") else None


def replace_signal_handling(trainer: Any, handling: Any) -> None:
    """Lightning's handlers broadcast wherever they come, and under SLURM save in the middle of a rollout."""
    trainer._signal_connector = handling


def find_cluster_environment(trainer: Any) -> Any:
    """SLURM's, torchrun's or Lightning's own; a strategy of one device has none."""
    return trainer._accelerator_connector.cluster_environment


def disarm_child_observer() -> None:
    """A thread of the launcher kills this process once a child has ended; ``RankWatch`` saves and reports."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined]


def read_process_group_timeout(trainer: Trainer) -> float:
    """Seconds after which a collective fails; no strategy shows what it was given."""
    timeout = getattr(trainer.strategy, "_timeout", None)
    return math.inf if timeout is None else float(timeout.total_seconds())


def set_root_folder(trainer: Any, folder: str) -> None:
    """``default_root_dir`` cannot be set once the trainer is made, and changes with the working directory."""
    trainer._default_root_dir = folder


class _FitLoopToTheEnd(_FitLoop):
    """Goes through its hooks, too, where a resumed run has no rollout left: the validation may be missing."""

    @property
    def skip(self) -> bool:
        """Whether there is nothing to fit."""
        return bool(self.trainer.limit_train_batches == 0)


def run_hooks_of_a_complete_fit(trainer: Trainer) -> None:
    """Lightning skips a complete fit with its hooks. The loop is in use already: it cannot be another object."""
    if type(trainer.fit_loop) is _FitLoop:
        trainer.fit_loop.__class__ = _FitLoopToTheEnd


def validation_follows(trainer: Any) -> bool:
    """Whether the fit loop validates after the batch just done."""
    loop = trainer.fit_loop
    return bool(trainer.enable_validation and loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


@contextmanager
def insert_validation(trainer: Any) -> Iterator[None]:
    """Run the validation loop inside; the training loop then logs its next batch as if nothing had come between."""
    connector = trainer._logger_connector
    first_iteration, trainer.validating = connector._first_loop_iter, True
    yield
    trainer.training, connector._first_loop_iter = True, first_iteration


def dump_checkpoint(trainer: Any) -> dict[str, Any]:
    """What ``trainer.save_checkpoint`` writes, in memory."""
    state: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    return state


def read_batch_metrics(trainer: Any) -> dict[str, Any]:
    """What loggers will get of the batch just done; nothing where ``log_every_n_steps`` passes it over."""
    connector = trainer._logger_connector
    return dict(connector.metrics["log"]) if connector.should_update_logs else {}
