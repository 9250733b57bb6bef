"""The state of a run between two rollouts, held until it is written: of every kind of checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lgrpo_lightning.distributed.lightning_internals import dump_checkpoint
from lgrpo_lightning.distributed.sharding import is_sharded
from lgrpo_lightning.rollouts.queue import EARLIER

WEIGHTS = ("state_dict", "optimizer_states")
ALIASED = {*WEIGHTS, EARLIER, "hyper_parameters", "datamodule_hyper_parameters"}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A checkpoint in memory: weights and optimizer by reference, all else as a copy.

    It is whole as long as no optimizer step is made. Where the strategy shards, or it was loaded, weights and
    optimizer are left out, and gathered when it is written.
    """

    rollouts: int
    checkpoint: dict[str, Any]

    @classmethod
    def take(cls, trainer: Trainer, rollouts: int) -> Snapshot:
        """The state as it is now. Collective."""
        with _without_weights(trainer):
            state = dump_checkpoint(trainer)
        return cls.copy_state(state, rollouts)

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any], rollouts: int) -> Snapshot:
        """The state that a run resumes from."""
        return cls.copy_state({k: v for k, v in checkpoint.items() if k not in (*WEIGHTS, EARLIER)}, rollouts)

    @classmethod
    def copy_state(cls, state: dict[str, Any], rollouts: int) -> Snapshot:
        """``state``, copied but for what is held by reference."""
        return cls(rollouts=rollouts, checkpoint={k: v if k in ALIASED else deepcopy(v) for k, v in state.items()})

    def add_weights(self, trainer: Trainer) -> dict[str, Any]:
        """What is to be written, with weights and optimizer. Collective where the strategy shards."""
        if WEIGHTS[0] in self.checkpoint and not is_sharded(trainer):
            return dict(self.checkpoint)
        now = dump_checkpoint(trainer)
        return self.checkpoint | {name: now[name] for name in (*WEIGHTS, EARLIER) if name in now}

    def is_whole(self, trainer: Trainer) -> bool:
        """Whether the weights still are those of then, and finite."""
        steps: Any = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
        if steps.ready != steps.completed:  # an optimizer step failed half-way
            return False
        weights = self.checkpoint["state_dict"].values()
        return self.checkpoint["global_step"] == trainer.global_step and all(
            bool(t.isfinite().all()) for t in weights if isinstance(t, Tensor)
        )

    def renew_callbacks(self, callbacks: list[Callback]) -> bool:
        """Take the callbacks' state as it is now; whether it changed."""
        states = {callback.state_key: state for callback in callbacks if (state := callback.state_dict())}
        # by repr: states hold tensors, whose == is no truth value
        changed = repr(states) != repr(self.checkpoint["callbacks"])
        self.checkpoint["callbacks"] = deepcopy(states)
        return changed


class LatestSnapshot:
    """The state after the last rollout, with what validations and callbacks have changed since.

    Past an epoch's end the loops no longer continue it exactly: what is held then stays, but for the callbacks' state.
    """

    def __init__(self) -> None:
        self.state: Snapshot | None = None
        self._in_epoch = False

    def take(self, trainer: Trainer, rollouts: int) -> Snapshot:
        """Hold the state as it is now: a rollout is done. Collective."""
        self._in_epoch, self.state = True, Snapshot.take(trainer, rollouts)
        return self.state

    def load(self, checkpoint: dict[str, Any], rollouts: int) -> None:
        """Hold the state that a run resumes from: before its first rollout the loops no longer give it."""
        self._in_epoch, self.state = False, Snapshot.from_checkpoint(checkpoint, rollouts)

    def renew(self, trainer: Trainer, rollouts: int) -> bool:
        """Take in what has changed since the rollout; whether anything has. Collective."""
        if self.state is not None and not self._in_epoch:
            return self.state.renew_callbacks(trainer.callbacks)  # type: ignore[attr-defined]
        self.state = Snapshot.take(trainer, rollouts)
        return True

    def leave_epoch(self) -> None:
        """From here on the place in the epoch is the one taken after its last rollout."""
        self._in_epoch = False

    def clear(self) -> None:
        """Hold nothing: no rollout is done."""
        self.state, self._in_epoch = None, False


@contextmanager
def _without_weights(trainer: Trainer) -> Iterator[None]:
    """Inside, a sharding strategy gives no weights and no optimizer, whose gathering makes a copy of them."""
    if not is_sharded(trainer):
        yield
        return
    strategy: Any = trainer.strategy
    # on the instance, so that deleting them shows the class's methods again
    strategy.lightning_module_state_dict = dict
    strategy.optimizer_state = lambda optimizer: {}
    try:
        yield
    finally:
        del strategy.lightning_module_state_dict, strategy.optimizer_state
