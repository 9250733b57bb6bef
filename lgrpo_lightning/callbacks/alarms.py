"""Says when a run goes wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lgrpo_lightning.callbacks.rollout_callback import RolloutCallback, count_rollouts
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.errors import require
from lgrpo_lightning.monitoring.alarm_rules import complete_thresholds
from lgrpo_lightning.monitoring.tracker import Tracker
from lgrpo_lightning.monitoring.window import Facts, share_repeated
from lgrpo_lightning.types import Rollout


class Alarms(RolloutCallback):
    """Prints what is wrong with a run and what to change, once for each cause.

    A cause is named when it was there in each of ``patience`` rollouts, and again only after it was away for as
    many. "The reward does not rise" compares the last ``patience`` rollouts with as many before. ``lgrpo doctor`` has
    the same rules.

    Args:
        patience: Rollouts.
        thresholds: Name of a rule → from where on it holds, in place of its default; null switches the rule off.
    """

    def __init__(self, patience: int = 20, thresholds: dict[str, float | None] | None = None) -> None:
        require("Alarms: ", locals(), (patience >= 1, "patience", "at least 1"))
        self.thresholds = complete_thresholds(thresholds)
        self.tracker = Tracker(patience, self.thresholds)
        self.texts: dict[str, int] = {}  # id of a prompt → hash of its text

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        estimator = getattr(pl_module, "advantage_estimator", None)
        models = getattr(pl_module, "reward_model", None)
        names, weights = getattr(models, "models", []), getattr(models, "weights", [])
        self.tracker.window.facts = Facts(
            weighs_sets=estimator is not None and estimator.power > 0,
            reward_weights={model.name: weight for model, weight in zip(names, weights, strict=True)},
        )

    def on_rollout_end(self, trainer: Trainer, pl_module: LightningModule, rollout: Rollout) -> None:
        self.texts |= {group.prompt.uid: hash(group.prompt.text) for group in rollout.groups}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        window = self.tracker.window
        window.facts = replace(window.facts, repeated=share_repeated(self.texts))
        for text in self.tracker.see(trainer.callback_metrics):  # type: ignore[arg-type]
            say(trainer, f"Alarm after rollout {count_rollouts(pl_module)}: {text}")

    def state_dict(self) -> dict[str, Any]:
        return self.tracker.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.tracker.load_state_dict(state_dict)
