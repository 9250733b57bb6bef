"""All ranks stop at the same place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.distributed.activity import doing, waiting
from lgrpo_lightning.distributed.component_call import is_aside
from lgrpo_lightning.distributed.interruption import (
    AbandonedError,
    Interrupted,
    in_step,
    request_stop,
    stop_signal,
)
from lgrpo_lightning.distributed.ranks import ranks, tensor_mesh


def stop_together(trainer: Any) -> None:
    """Go on, unless a stop was asked for on any rank. Collective: every rank comes here at the same point.

    Raises:
        Interrupted: On every rank, where one was asked to stop.
        PeerLostError: Another rank is gone.
    """
    with waiting():
        asked = torch.tensor(float(stop_signal()), device=trainer.strategy.root_device)
        agreed = int(ranks(trainer).max(asked))
    if agreed:
        request_stop(agreed)
        raise Interrupted(agreed)


@contextmanager
def abandoning_together(trainer: Any) -> Iterator[None]:
    """Inside, every rank abandons what it does (``AbandonedError``) where one does: the run then stops in good order.

    Under tensor parallelism none does, as ranks draw each token together; the stop comes after the last one.
    """
    alone = tensor_mesh(trainer.strategy) is None
    try:
        with nullcontext() if alone else in_step():
            yield
    except AbandonedError:
        stop_together(trainer)
        raise


@contextmanager
def abandonable(trainer: Any, random_key: RandomKey, verb: str) -> Iterator[None]:
    """Draw completions inside, or score them: a stop that is asked for meanwhile abandons them, on all ranks.

    On a thread beside the run they are abandoned likewise; all ranks agree where the run waits for them.
    """
    if is_aside():
        yield
        return
    what = f"rollout {random_key.counter}" if random_key.phase == "train" else f"for {random_key.phase}"
    doing(f"{verb} {what}")
    with abandoning_together(trainer):
        yield
    stop_together(trainer)
    doing(f"scoring {what}")
