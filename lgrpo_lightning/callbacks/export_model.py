"""A Hugging Face folder of the policy every so often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lgrpo_lightning.callbacks.rollout_callback import count_rollouts
from lgrpo_lightning.distributed.sharding import is_sharded
from lgrpo_lightning.errors import require
from lgrpo_lightning.policy.export import export


class ExportModel(Callback):
    """Writes ``<default_root_dir>/exports/rollout-<n>``, which transformers loads, during a fit.

    Args:
        every_n_rollouts: How often.
        adapter: Write the LoRA adapter alone, in place of the merged model.
    """

    def __init__(self, every_n_rollouts: int = 100, adapter: bool = False) -> None:
        require("ExportModel: ", locals(), (every_n_rollouts >= 1, "every_n_rollouts", "at least 1"))
        self.every_n_rollouts, self.adapter = every_n_rollouts, adapter

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        done = count_rollouts(pl_module)
        if done % self.every_n_rollouts or not (trainer.is_global_zero or is_sharded(trainer)):
            return
        module: Any = pl_module
        out = Path(trainer.default_root_dir) / "exports" / f"rollout-{done:06d}"
        export(module.policy, module.tokenizer, out, adapter=self.adapter, writes=trainer.is_global_zero)
