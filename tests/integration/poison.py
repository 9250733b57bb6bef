"""Puts NaN into a real run, at a chosen place."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import Callback


class Poison(Callback):
    """Poisons the training passes of some rollouts.

    Args:
        what: "output" makes one position of the hidden states NaN, "gradient" the gradient there infinite,
            "weight" one weight NaN for good before the rollout, "update" by the optimizer step.
        rollouts: In which rollouts.
        rank: On which rank alone.
        passes: In so many training passes of each rollout, the first ones.
    """

    def __init__(
        self,
        what: Literal["output", "gradient", "weight", "update"],
        rollouts: list[int],
        rank: int = 0,
        passes: int = 1,
    ) -> None:
        self.what, self.rollouts, self.rank, self.passes = what, rollouts, rank, passes
        self.left = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        from lgrpo_lightning.policy.head import find_backbone

        if self.what == "update":
            trainer.optimizers[0].register_step_post_hook(lambda *_: self._spoil(pl_module))
        elif trainer.global_rank == self.rank and self.what != "weight":
            find_backbone(pl_module.policy.model).register_forward_hook(self._poisoned)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        due = trainer.global_rank == self.rank and pl_module.rollout_index in self.rollouts
        self.left = self.passes if due else 0
        if self.what == "weight":
            self._spoil(pl_module)

    def _spoil(self, module: Any) -> None:
        if self.left:
            weight: Any = next(p for p in module.policy.parameters() if p.dim() == 1)
            with torch.no_grad():
                weight.view(-1)[0] = torch.nan

    def _poisoned(self, model: Any, inputs: Any, output: Any) -> Any:
        if not self.left or not torch.is_grad_enabled():
            return None
        self.left -= 1
        hidden = output.last_hidden_state
        factor = torch.ones_like(hidden)
        if self.what == "output":
            factor[0, -2] = torch.nan
            output.last_hidden_state = hidden * factor
        else:
            factor[0, -2] = torch.inf
            hidden.register_hook(lambda gradient: gradient * factor)
        return output
