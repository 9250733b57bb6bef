"""Says when a run goes wrong."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lgrpo_lightning.display.alarm_rules import RULES, WATCHED
from lgrpo_lightning.display.rollout_window import Window
from lgrpo_lightning.trainer.rollout_callback import rollouts_done
from lgrpo_lightning.trainer.terminal import say


class Alarms(Callback):
    """Prints what is wrong with a run and what to change, once for each cause.

    A cause is named when it was there in each of ``patience`` rollouts, and again only after it was away for as
    many. "The reward does not rise" compares the last ``patience`` rollouts with as many before. Each threshold may
    be null, which switches that alarm off.

    Args:
        patience: Rollouts.
        entropy: Nats per token; below it, with a quarter of the groups all wrong and a reward that does not rise.
        kl: Nats per token; above it, where KL is logged.
        length: How many times longer or shorter than at the run's start completions are, without a gain in reward.
        clipped: Share of completions cut off, with a reward that does not rise.
        dead_groups: Share of groups with equal rewards.
        not_applicable: Share of completions to which no reward applies.
        gradient: Norm of the gradient, at or below it, though groups have unequal rewards.
        nonfinite: Share of optimizer steps dropped because something was not finite.
    """

    def __init__(
        self,
        patience: int = 20,
        entropy: float | None = 0.02,
        kl: float | None = 1.0,
        length: float | None = 3.0,
        clipped: float | None = 0.5,
        dead_groups: float | None = 0.95,
        not_applicable: float | None = 0.5,
        gradient: float | None = 0.0,
        nonfinite: float | None = 0.25,
    ) -> None:
        if patience < 1:
            raise ValueError(f"Alarms(patience={patience}) must be at least 1.")
        if length is not None and length <= 1:
            raise ValueError(f"Alarms(length={length}) must be above 1, or null.")
        values = (entropy, kl, length, clipped, dead_groups, not_applicable, gradient, nonfinite)
        thresholds: dict[str, float | None] = dict(zip(RULES, values, strict=True))
        self.thresholds = {name: value for name, value in thresholds.items() if value is not None}
        self.patience = patience
        self.window = Window(patience)
        self.there = dict.fromkeys(
            RULES, 0
        )  # rollouts in a row: with the cause, or since it is named, without it
        self.named: list[str] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the rollout just done."""
        logged = trainer.callback_metrics
        self.window.add({name: float(logged[name]) for name in WATCHED if name in logged})
        for name, threshold in self.thresholds.items():
            text = RULES[name](self.window, threshold)
            named = name in self.named
            self.there[name] = self.there[name] + 1 if (text is None) == named else 0
            if self.there[name] < self.patience:
                continue
            self.there[name] = 0
            if named:
                self.named.remove(name)
            else:
                self.named.append(name)
                say(trainer, f"Alarm after rollout {rollouts_done(pl_module)}: {text}")

    def state_dict(self) -> dict[str, Any]:
        """What was seen and said, so that a resumed run does not begin anew."""
        return {"window": self.window.state_dict(), "there": dict(self.there), "named": list(self.named)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.window.load_state_dict(state_dict["window"])
        self.there, self.named = state_dict["there"], state_dict["named"]
