"""The processes of a run stop together, and none waits for ever for another."""

from __future__ import annotations

import atexit
import os
import time
from typing import Any
from uuid import uuid4

import torch
from lightning.pytorch import LightningModule, Trainer

from lgrpo_lightning.callbacks.rollout_callback import RolloutCallback, count_rollouts
from lgrpo_lightning.distributed.activity import note_activity
from lgrpo_lightning.distributed.interruption import Interrupted, explain_lost_peer
from lgrpo_lightning.distributed.lightning_internals import (
    disarm_child_observer,
    find_stop_signals,
    read_process_group_timeout,
)
from lgrpo_lightning.distributed.processes import signal_at_parents_end
from lgrpo_lightning.distributed.stopping import stop_together
from lgrpo_lightning.distributed.watch import Watch
from lgrpo_lightning.errors import require
from lgrpo_lightning.types import Rollout

MARGIN = 10.0
"""Seconds by which RankWatch times out before torch's process group does."""


class RankWatch(RolloutCallback):
    """Stops all ranks together, and names the process that the others are waiting for.

    Every process tells the others what it is doing. One that ended, was killed, has hung for
    ``timeout_minutes`` or is silent is named, with what it was doing, and the others end with status 75 after
    they have saved what they can. See docs/reliability.md.

    Args:
        timeout_minutes: Longest wait for the other ranks, in minutes. Torch's own time-out, which the strategy
            sets (30 minutes by default), has to be longer.
    """

    def __init__(self, timeout_minutes: float = 30.0) -> None:
        require("RankWatch: ", locals(), (timeout_minutes > 0, "timeout_minutes", "above 0"))
        self.timeout_minutes = timeout_minutes
        self._watch: Watch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        note_activity("setting up")
        if (signals := find_stop_signals(trainer)) is not None:
            signals.at_end = lambda: self._end(trainer)
        if trainer.world_size > 1 and torch.distributed.is_initialized():
            atexit.unregister(_close_groups)
            if trainer.local_rank > 0:
                signal_at_parents_end(0)  # from here on the watch says what happened
            disarm_child_observer()
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            distributed: Any = torch.distributed
            store = distributed.TCPStore(address, port, wait_for_workers=False)
            limit = min(60 * self.timeout_minutes, max(read_process_group_timeout(trainer) - MARGIN, MARGIN))
            run = trainer.strategy.broadcast(uuid4().hex)
            self._watch = Watch(store, run=run, rank=trainer.global_rank, world_size=trainer.world_size, limit=limit)
            self._watch.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        note_activity(f"at the start of rollout {count_rollouts(pl_module)}")
        stop_together(trainer)

    def on_rollout_end(self, trainer: Trainer, pl_module: LightningModule, rollout: Rollout) -> None:
        note_activity(f"the update of rollout {rollout.index}", waits=True)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        note_activity(f"optimizer step {trainer.global_step} of rollout {count_rollouts(pl_module)}", waits=True)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        note_activity(f"finishing rollout {count_rollouts(pl_module) - 1}", waits=True)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        note_activity("evaluating")
        stop_together(trainer)

    on_test_batch_end = on_validation_batch_end
    on_predict_batch_end = on_validation_batch_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Find out whether another rank is behind it; tell the others of one that is this rank's own."""
        if self._watch is None or isinstance(exception, Interrupted):
            return
        until = time.monotonic() + 3
        while not explain_lost_peer() and time.monotonic() < until:  # a broken connection shows before its reason
            time.sleep(0.1)
        if not explain_lost_peer():
            self._watch.end(f"{type(exception).__name__}: {str(exception)[:300]}")
            self._watch = None

    def _end(self, trainer: Trainer) -> None:
        """The trainer is done: all ranks come here, unless one was lost."""
        watch, self._watch = self._watch, None
        if watch is not None and not explain_lost_peer():
            watch.ending = True
            trainer.strategy.barrier("RankWatch: the end")  # so that rank 0, which hosts the store, is not missed
            atexit.register(_close_groups)
        if watch is not None:
            watch.end()


def _close_groups() -> None:
    """Let the threads of torch's process groups end while Python lives; cut off in a Python object, one aborts.

    Only after a run that ended well on all ranks: closing waits for collectives that are under way.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
