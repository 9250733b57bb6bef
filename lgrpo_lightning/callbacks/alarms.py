"""Says when a run goes wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lgrpo_lightning.callbacks.rollout_callback import RolloutCallback, rollouts_done
from lgrpo_lightning.diagnosis.repetition import Repetition
from lgrpo_lightning.diagnosis.rules import RULES
from lgrpo_lightning.diagnosis.tracker import Tracker
from lgrpo_lightning.diagnosis.window import Facts
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Rollout


class Alarms(RolloutCallback):
    """Prints what is wrong with a run and what to change, once for each cause.

    A cause is named when it was there in each of ``patience`` rollouts, and again only after it was away for as
    many. "The reward does not rise" compares the last ``patience`` rollouts with as many before. Each threshold may
    be null, which switches that alarm off. ``lgrpo doctor`` has the same rules.

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
        no_answer: Share of completions in which a reward finds no answer.
        drift: Nats per token between the log-probs of sampler and policy.
        rate: Share of the gain in reward that is lost again.
        clip_region: Share of tokens whose gradient is cut by clipping.
        drowned: How little one reward varies beside another, weights included.
        repeated: Share of the prompts seen that the data has more than once.
        unshared: Share of shared tokens below which λ-GRPO is GRPO.
        reward_time: Share of a rollout's time that rewards take, where it takes a second or more.
        sampling_time: Share of a rollout's time that sampling takes, where it takes five seconds or more.
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
        no_answer: float | None = 0.9,
        drift: float | None = 0.1,
        rate: float | None = 0.5,
        clip_region: float | None = 0.3,
        drowned: float | None = 0.05,
        repeated: float | None = 0.2,
        unshared: float | None = 0.02,
        reward_time: float | None = 0.5,
        sampling_time: float | None = 0.9,
    ) -> None:
        given = locals()
        if patience < 1:
            raise UserError(f"Alarms(patience={patience}) must be at least 1.")
        if length is not None and length <= 1:
            raise UserError(f"Alarms(length={length}) must be above 1, or null.")
        self.thresholds = {rule.name: given[rule.name] for rule in RULES if given[rule.name] is not None}
        self.tracker = Tracker(patience, self.thresholds)
        self.seen = Repetition()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn what the rules ask beside metrics."""
        estimator = getattr(pl_module, "advantage_estimator", None)
        models = getattr(pl_module, "reward_model", None)
        names, weights = getattr(models, "models", []), getattr(models, "weights", [])
        self.tracker.window.facts = Facts(
            weighs_sets=getattr(estimator, "power", 0.0) > 0,
            reward_weights={model.name: weight for model, weight in zip(names, weights, strict=True)},
        )

    def on_rollout_end(self, trainer: Trainer, pl_module: LightningModule, rollout: Rollout) -> None:
        """See which prompts there are."""
        for group in rollout.groups:
            self.seen.add(group.prompt.uid, group.prompt.text)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the rollout just done."""
        window = self.tracker.window
        window.facts = replace(window.facts, repeated=self.seen.share)
        for text in self.tracker.see(trainer.callback_metrics):  # type: ignore[arg-type]
            say(trainer, f"Alarm after rollout {rollouts_done(pl_module)}: {text}")

    def state_dict(self) -> dict[str, Any]:
        """What was seen and said, so that a resumed run does not begin anew."""
        return self.tracker.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.tracker.load_state_dict(state_dict)
