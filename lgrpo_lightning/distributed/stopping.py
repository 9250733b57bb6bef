"""All ranks stop at the same place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.distributed.activity import note_activity, read_activity
from lgrpo_lightning.distributed.interruption import (
    AbandonedError,
    Interrupted,
    check_peers,
    forbid_abandoning,
    is_aside,
    read_stop_signal,
    request_stop,
)
from lgrpo_lightning.distributed.ranks import find_ranks, find_tensor_mesh


def stop_together(trainer: Any) -> None:
    """Go on, unless a stop was asked for on any rank. Collective: every rank comes here at the same point.

    Raises:
        Interrupted: On every rank, where one was asked to stop.
        PeerLostError: Another rank is gone.
    """
    check_peers()
    before = read_activity()
    note_activity(f"waiting for the others after {before.what}", waits=True)
    asked = torch.tensor(float(read_stop_signal()), device=trainer.strategy.root_device)
    agreed = int(find_ranks(trainer).max(asked))
    note_activity(before.what, waits=before.waits, saves=before.saves)
    if agreed:
        request_stop(agreed)
        raise Interrupted(agreed)


@contextmanager
def abandon_together(trainer: Any) -> Iterator[None]:
    """Inside, every rank abandons what it does (``AbandonedError``) where one does: the run then stops in good order.

    Under tensor parallelism none does, as ranks draw each token together; the stop comes after the last one.
    """
    alone = find_tensor_mesh(trainer.strategy) is None
    try:
        with nullcontext() if alone else forbid_abandoning():
            yield
    except AbandonedError:
        stop_together(trainer)
        raise


@contextmanager
def allow_abandoning(trainer: Any, random_key: RandomKey, verb: str) -> Iterator[None]:
    """Draw completions inside, or score them: a stop that is asked for meanwhile abandons them, on all ranks.

    On a thread beside the run they are abandoned likewise; all ranks agree where the run waits for them.
    """
    if is_aside():
        yield
        return
    what = f"rollout {random_key.counter}" if random_key.phase == "train" else f"for {random_key.phase}"
    note_activity(f"{verb} {what}")
    with abandon_together(trainer):
        yield
    stop_together(trainer)
    note_activity(f"scoring {what}")
