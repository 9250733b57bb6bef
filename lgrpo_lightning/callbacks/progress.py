"""The progress of a run: a bar on a terminal, a line per rollout in a pipe."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from lgrpo_lightning.callbacks.rollout_callback import count_rollouts
from lgrpo_lightning.distributed.terminal import is_on_terminal, say
from lgrpo_lightning.errors import require
from lgrpo_lightning.rollouts.metric_series import find_validation_metrics

LENGTH = "completions/mean_length"


class RewardProgressBar(RichProgressBar):
    """A bar over the rollouts of the run whose first number is the reward.

    Then follow validation's avg@k (or accuracy) where known, loss, KL, entropy, completion length and what else was
    logged with ``prog_bar=True``. Above the bar stays one line of every validation and of every
    ``every_n_rollouts``-th rollout. Where standard output is not a terminal there is no bar: one plain line per
    rollout, and one per validation.

    Args:
        leave: Whether the finished bar stays on the screen.
        every_n_rollouts: Of which rollouts a line stays above the bar, the first among them; 0 of none.

    Raises:
        ValueError: ``every_n_rollouts`` is below 0.
    """

    def __init__(self, leave: bool = True, every_n_rollouts: int = 10) -> None:
        super().__init__(leave=leave)
        none = "at least 0 (0 leaves no line)"
        require("RewardProgressBar: ", locals(), (every_n_rollouts >= 0, "every_n_rollouts", none))
        self.every_n_rollouts = every_n_rollouts
        self._plain = False
        self._started = time.monotonic()

    @property
    def is_enabled(self) -> bool:
        """Whether a bar is drawn."""
        return super().is_enabled and not self._plain

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._plain = not is_on_terminal()

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """A short bar without rollouts per second, to leave room for the numbers."""
        description, bar, *others = super().configure_columns(trainer)
        bar.bar_width = 10
        return [description, bar, *others[:-1]]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The numbers shown, by their short names, the reward first."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        first = ("reward", *find_validation_metrics(logged)[-1:], "loss", "kl", "entropy")
        labels = {name: name.rpartition("/")[2] for name in first}
        shown = {label: f"{logged[name]:.3f}" for name, label in labels.items() if name in logged}
        if LENGTH in logged:
            shown["len"] = f"{logged[LENGTH]:.0f}"
        asked = {n: f"{float(v):.3g}" for n, v in trainer.progress_bar_metrics.items() if isinstance(v, float)}
        return shown | {name: text for name, text in asked.items() if name not in {*labels, LENGTH, *shown}}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One bar for the whole run, not one an epoch."""
        if self.is_enabled and self.progress is not None and self.train_progress_bar_id is None:
            self.train_progress_bar_id = self._add_task(estimate_rollouts(trainer, pl_module), "Rollouts")
            self._update(self.train_progress_bar_id, count_rollouts(pl_module))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._started = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        done, total = count_rollouts(pl_module), estimate_rollouts(trainer, pl_module)
        if self.is_enabled and self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, total=total)
            self._update(self.train_progress_bar_id, done)
            self._update_metrics(trainer, pl_module)
            self.refresh()
        limit = f"/{total:.0f}" if math.isfinite(total) else ""
        if self._plain or (self.every_n_rollouts and (done - 1) % self.every_n_rollouts == 0):
            self._print_line(f"rollout {done}{limit}", trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_start(trainer, pl_module)
        self._started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            logged = trainer.callback_metrics
            rates = {name: f"{float(logged[name]):.3f}" for name in find_validation_metrics(logged)}
            self._print_line("validation", trainer, pl_module, rates)

    def _print_line(
        self, head: str, trainer: Trainer, pl_module: LightningModule, metrics: dict[str, str] | None = None
    ) -> None:
        """Print one line, above the bar where there is one."""
        if not super().is_enabled:
            return
        shown = self.get_metrics(trainer, pl_module) if metrics is None else metrics
        parts = [head, *(f"{name} {value}" for name, value in shown.items())]
        say(trainer, "  ".join([*parts, f"{time.monotonic() - self._started:.1f} s"]))


def estimate_rollouts(trainer: Trainer, pl_module: LightningModule) -> float:
    """How many rollouts the run will have at most, as far as one can tell; infinity if nothing limits it.

    ``max_steps`` counts optimizer steps; how many a rollout takes is read off the run so far, at the start its options.
    """
    module: Any = pl_module
    updates, limits = getattr(module, "updates", None), [math.inf]
    if updates is not None and updates.max_rollouts > 0:
        limits.append(updates.max_rollouts)
    if (trainer.max_epochs or -1) > 0:
        limits.append(float(trainer.max_epochs or 0) * trainer.num_training_batches)
    steps, done = getattr(module, "planned_steps", None) or trainer.max_steps, count_rollouts(pl_module)
    each = trainer.global_step / done if done else getattr(updates, "steps_per_rollout", 1)
    if steps > 0 and each:
        limits.append(steps / each)
    return math.ceil(least) if math.isfinite(least := min(limits)) else math.inf
