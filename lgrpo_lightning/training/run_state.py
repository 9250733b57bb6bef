"""What a checkpoint keeps of a run besides weights, optimizer and loops, which Lightning saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lgrpo_lightning.checkpoints import state
from lgrpo_lightning.checkpoints.checkpoint_check import describe_world_size_change
from lgrpo_lightning.checkpoints.code import list_changed_code, read_code
from lgrpo_lightning.distributed.ranks import gather
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.training.optimizers import take_over_rates


class RunState:
    """Random generators of every rank, state of components, versions of code, and the options of the optimizer.

    Attributes:
        parts: What may have a ``state_dict``, by name.
        rates: Options of the optimizer and of its schedule in this run, as ``read_rates`` gives them.
    """

    def __init__(self) -> None:
        self.parts: dict[str, Any] = {}
        self.rates: list[dict[str, Any]] = []
        self._code: dict[str, str] = {}
        self._saved_rates: list[dict[str, Any]] = []
        self._saved_rng: list[Any] | None = None  # by rank, of a checkpoint with as many ranks

    def begin(self) -> None:
        """Forget what an earlier fit has loaded."""
        self._saved_rng, self._saved_rates = None, []
        self._code = read_code(self.parts)

    def save(self, trainer: Trainer) -> dict[str, Any]:
        """The entries of a checkpoint. Collective."""
        return {
            "world_size": trainer.world_size,
            "rng": gather(trainer, state.read_rng_state()),
            "components": state.read_component_state(self.parts),
            "code": self._code,
            "rates": self.rates,
        }

    def load(self, saved: Mapping[str, Any], trainer: Trainer | None) -> None:
        """Hand components their state, and keep the rest for ``restore``.

        Args:
            trainer: None where a checkpoint is loaded without one.
        """
        state.load_component_state(self.parts, saved["components"])
        if trainer is None:
            return
        self._saved_rng = saved["rng"] if saved["world_size"] == trainer.world_size else None
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._saved_rates = saved.get("rates", [])
        if self._saved_rng is None:
            say(trainer, describe_world_size_change(saved["world_size"], trainer.world_size))
        if lines := list_changed_code(saved.get("code", {}), self._code):
            say(trainer, "\n".join(["Going on with other code than the checkpoint was made with:", *lines]))

    def restore(self, trainer: Trainer, scheduler: Any) -> None:
        """Just before training: the saved generators, and this run's learning rates where they were changed."""
        if changes := take_over_rates(trainer.optimizers[0], scheduler, self.rates, self._saved_rates):
            say(trainer, f"The optimizer goes on with {changes}.")
        if self._saved_rng is not None:
            state.set_rng_state(self._saved_rng[trainer.global_rank])
