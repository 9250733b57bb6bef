"""The LightningModule: composes the components and is the whole algorithm on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn

from lgrpo_lightning.callbacks import complete_trainer
from lgrpo_lightning.callbacks.close_queue import CloseQueue
from lgrpo_lightning.callbacks.rollout_callback import call_rollout_callbacks
from lgrpo_lightning.callbacks.validate_at_ends import ValidateAtEnds
from lgrpo_lightning.checkpoints.held_state import EARLIER, weights_left_out
from lgrpo_lightning.contracts import (
    AdvantageEstimator,
    PolicyLoss,
    RandomKey,
    RewardModel,
    Sampler,
    StepSegmenter,
)
from lgrpo_lightning.estimators import LambdaGRPO
from lgrpo_lightning.losses.clipped_surrogate import ClippedSurrogate
from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.policy.loading import run_seed
from lgrpo_lightning.policy.router import check_router
from lgrpo_lightning.rewards.weighted_sum import RewardSum
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.segmenters import TokenPrefixSegmenter
from lgrpo_lightning.training import (
    Objective,
    Schedule,
    Updates,
    Validation,
    fitting_ahead,
    fitting_loss,
    settings,
)
from lgrpo_lightning.training.alike import check_alike, describe_run
from lgrpo_lightning.training.components import Components
from lgrpo_lightning.training.entropy_bonus import EntropyBonus
from lgrpo_lightning.training.evaluation import Evaluations, evaluation_names
from lgrpo_lightning.training.kl_reward import subtract_kl_penalty
from lgrpo_lightning.training.metrics import Means, add_weight_lag
from lgrpo_lightning.training.metrics_log import MetricsLog
from lgrpo_lightning.training.mini_batches import mini_batches
from lgrpo_lightning.training.no_step import check_steps
from lgrpo_lightning.training.optimizers import default_optimizer
from lgrpo_lightning.training.policy_module import PolicyModule
from lgrpo_lightning.training.refill import Refill, ScoredGroups
from lgrpo_lightning.training.rollout_queue import RolloutQueue
from lgrpo_lightning.training.run_limits import RunLimits
from lgrpo_lightning.training.timing import Clock
from lgrpo_lightning.training.trained_groups import drop_unjudged, trained_groups
from lgrpo_lightning.training.update import Update
from lgrpo_lightning.types import Progress, Prompt, Rewards, Rollout, Sampling, TrainBatch


class GRPOModule(PolicyModule):
    """Fine-tunes a causal language model by group-relative policy optimisation.

    One batch of prompts is one rollout and all its optimizer steps. The algorithm is the advantage estimator:
    λ-GRPO (arXiv:2509.21154) by default, GRPO (arXiv:2402.03300) with ``GRPO()``; nothing else differs.

    Args:
        reward_model: Scores completions; several are added up. In Python, a function stands for
            ``RewardFunction(function)``.
        policy: The trained model and how it computes log-probs.
        sampler: Draws completions. Default ``TransformersSampler()``.
        segmenter: Divides a group into process steps. Default ``TokenPrefixSegmenter()``: exact tokens.
        advantage_estimator: The algorithm. Default ``LambdaGRPO()``.
        reward_weights: One weight per reward model; all 1 by default.
        group_size: Completions per prompt (G).
        sampling: How completions are drawn.
        loss: What a token's log-prob and credit cost. Default ``ClippedSurrogate()``.
        objective: KL penalty, entropy bonus, correction for the sampler.
        updates: Optimizer steps per rollout, gradient clipping, dropped groups.
        optimizer: Any optimizer class. Default AdamW with lr 1e-6 and no weight decay.
        schedule: Learning rate over optimizer steps.
        validation: What is measured on the validation sets.
        max_rollouts: Stop after so many rollouts; -1 leaves it to the Trainer.
        rollouts_ahead: Rollouts that are sampled and scored while earlier ones are trained on (k): each is drawn from
            the weights of exactly k rollouts before. For samplers with an engine of their own.
        seed: Keys the sampling noise; null takes the run's seed (``seed_everything``).
    """

    def __init__(
        self,
        reward_model: RewardModel | list[RewardModel],
        policy: PolicyConfig = PolicyConfig(),  # noqa: B008 - frozen
        sampler: Sampler | None = None,
        segmenter: StepSegmenter | None = None,
        advantage_estimator: AdvantageEstimator | None = None,
        reward_weights: list[float] | None = None,
        group_size: int = 8,
        sampling: Sampling = Sampling(),  # noqa: B008
        loss: PolicyLoss | None = None,
        objective: Objective = Objective(),  # noqa: B008
        updates: Updates = Updates(),  # noqa: B008
        optimizer: OptimizerCallable = default_optimizer,
        schedule: Schedule = Schedule(),  # noqa: B008
        validation: Validation = Validation(),  # noqa: B008
        max_rollouts: int = -1,
        rollouts_ahead: int = 0,
        seed: int | None = None,
    ) -> None:
        settings.check_options(group_size, sampling, updates, max_rollouts)
        settings.check_components(
            sampler=sampler, segmenter=segmenter, advantage_estimator=advantage_estimator, loss=loss
        )
        super().__init__(
            policy,
            with_reference=objective.kl_coef > 0,
            reference_sync=objective.reference_sync,
            optimizer=optimizer,
            schedule=schedule,
            gradient_clip_val=updates.gradient_clip_val,
            on_nonfinite=updates.on_nonfinite,
        )
        models = reward_model if isinstance(reward_model, list | tuple) else [reward_model]
        self.components = Components(
            sampler=sampler or TransformersSampler(),
            segmenter=segmenter or TokenPrefixSegmenter(),
            reward_model=RewardSum([settings.as_reward_model(model) for model in models], reward_weights),
            advantage_estimator=advantage_estimator or LambdaGRPO(),
            mask_truncated=updates.mask_truncated,
            seed=run_seed() if seed is None else seed,
        )
        self.group_size = group_size
        self.sampling = sampling
        self.loss = loss or ClippedSurrogate()
        self.objective = objective
        self.updates = updates
        self.validation = validation
        self.max_rollouts, self.rollouts_ahead = max_rollouts, rollouts_ahead
        self.limits = RunLimits(max_rollouts=max_rollouts, updates=updates)
        self.mini_batches = updates.mini_batches  # what the data module has to divide a rollout into
        fitting_loss.check_weights(self.loss, self.advantage_estimator)
        fitting_loss.check_penalty(objective, self.advantage_estimator)
        fitting_loss.check_correction(self.loss, objective, self.sampler, sampling)
        fitting_ahead.check_options(rollouts_ahead, self.components.by_name, sampling, updates)
        self.entropy_bonus = EntropyBonus(objective)
        self.stateful = {**self.components.by_name, "entropy_bonus": self.entropy_bonus}
        self.queue = RolloutQueue(
            self.components, group_size=group_size, sampling=sampling, ahead=rollouts_ahead
        )
        self.evaluations = Evaluations(validation, self.components, sampling)
        self.metrics_log = MetricsLog(
            success_threshold=validation.success_threshold, passes=updates.iterations
        )
        self.update: Update  # built when training starts

    # ------------------------------------------------------------------------------------------ the algorithm

    def training_step(self, prompts: Sequence[Prompt], batch_idx: int) -> None:
        """One rollout and its optimizer steps."""
        clock, means = Clock(), Means()
        rollout = self.draw_rollout(prompts, clock)
        add_weight_lag(means, rollout, self.weight_version, meant=self.queue.drawn_from)
        call_rollout_callbacks(self.trainer, self, rollout)
        batch = TrainBatch.from_groups(
            rollout.groups, rollout.credits, device=self.device, mask_truncated=rollout.mask_truncated
        )
        parts = mini_batches(rollout.trained, self.group_size, self.updates.mini_batches)
        with clock.measure("train"):
            self.update.run(batch, parts, means, allows=partial(self.allows_step, rollout))
        self.queue.end_update()
        self.rollout_index += 1
        self.announce_layout()
        values = self.metrics_log.collect(self.trainer, self.policy, rollout, means, clock, self.step_metrics)
        self.log_dict(values, batch_size=1)
        self.limits.stop_after_last(self.trainer, self.rollout_index)

    def draw_rollout(self, prompts: Sequence[Prompt], clock: Clock) -> Rollout:
        """Prompt ─Sampler→ Group ─StepSegmenter→ ProcessTree ─RewardModel→ Rewards ─AdvantageEstimator→ Credit."""
        random_key = self.components.random_key("train", self.rollout_index)
        version = self.weight_version
        requests = self.limits.upcoming(self.trainer, prompts, self.progress, self.rollouts_ahead)
        scored = self.queue.take(requests, version, clock)
        refill = Refill.of(
            self.trainer,
            self.updates.refill_rounds,
            draw=lambda further: self.queue.draw(further, random_key, version, clock),
        )
        scored, replaced = refill(scored)
        with clock.measure("reward"):
            rollout = self.assign_credit(
                self.rollout_index, scored, self.penalized_rewards(scored), random_key
            )
            return replace(
                drop_unjudged(rollout, self.ranks, self.device), replaced=replaced.untrained(rollout.index)
            )

    def assign_credit(
        self, index: int, scored: ScoredGroups, rewards: Sequence[Rewards], random_key: RandomKey
    ) -> Rollout:
        """Scored groups with the credit that ``rewards``, theirs or less a penalty, give."""
        credits = self.components.estimate_credit(scored.groups, rewards, scored.trees, random_key)
        return Rollout(
            index=index,
            groups=scored.groups,
            trees=scored.trees,
            rewards=tuple(
                replace(r, metrics=p.metrics) for r, p in zip(scored.rewards, rewards, strict=True)
            ),
            credits=tuple(credits),
            trained=trained_groups(scored.rewards, drop_equal=self.updates.drop_equal_groups),
            mask_truncated=self.updates.mask_truncated,
        )

    def penalized_rewards(self, scored: ScoredGroups) -> Sequence[Rewards]:
        """The rewards, less the KL penalty where ``objective.kl_place`` is "reward". Collective."""
        if not self.objective.kl_in_reward or self.reference is None:
            return scored.rewards
        return subtract_kl_penalty(
            scored.rewards,
            scored.groups,
            scorer=self.update.scorer,
            policy=self.policy,
            reference=self.reference,
            coefficient=self.objective.kl_coef,
        )

    def build_update(self) -> Update:
        """The optimizer steps of each rollout: the policy loss of every token, times its weight."""
        on_policy = self.sampler.is_policy and not self.rollouts_ahead
        return Update(
            policy=self.policy,
            reference=self.reference,
            loss=self.loss,
            objective=self.objective,
            updates=self.updates,
            bonus=self.entropy_bonus,
            temperature=self.sampling.temperature,
            max_length=self.sampling.max_new_tokens,
            importance=None if self.sampling.truncated else self.objective.importance,
            corrects=not on_policy,
            from_policy=on_policy and not self.sampling.truncated,
            ranks=self.ranks,
            backward=self.backward_pass,
            step=self.step_optimizer,
        )

    # ------------------------------------------------------------------------------------------ evaluation

    def on_validation_epoch_start(self) -> None:
        """Fresh metrics for every set."""
        self.queue.wait()
        self.evaluations.start(self._set_names(), self.device)
        self.start_sampling("validation")

    def validation_step(self, prompts: Sequence[Prompt], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Greedy decoding and k samples for every prompt."""
        self.evaluations.measure(dataloader_idx, prompts)

    def on_validation_epoch_end(self) -> None:
        """Log each set, and the mean over the sets under the bare names."""
        self.components.release_sampler(self.weight_version)
        logged = self.evaluations.metrics("test" if self.trainer.testing else "val")
        if logged and self.trainer.state.fn == TrainerFn.FITTING:
            logged["step"] = torch.tensor(float(self.global_step))
        self.log_dict(logged, sync_dist=True, batch_size=1)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def on_predict_epoch_start(self) -> None:
        """Get ready to sample."""
        self.start_sampling("predict")

    def predict_step(self, prompts: Sequence[Prompt], batch_idx: int, dataloader_idx: int = 0) -> Rollout:
        """A group of completions for every prompt, with its rewards and credit."""
        random_key = self.components.random_key("predict")
        groups = self.components.sample_groups(prompts, self.group_size, self.sampling, random_key)
        scored = self.components.score_groups(groups, random_key)
        rollout = self.assign_credit(batch_idx, scored, scored.rewards, random_key)
        return replace(rollout, trained=(False,) * len(groups))

    def start_sampling(self, phase: str) -> None:
        """The sampler takes over the weights, and the rewards learn whose completions they will see."""
        self.components.sync_sampler(self.weight_version)
        self.components.start_rewards(self.components.random_key(phase), self.progress)

    def _set_names(self) -> tuple[str, ...]:
        trainer: Any = self.trainer
        return tuple(getattr(trainer.datamodule, "test_names" if trainer.testing else "validation_names"))

    # ------------------------------------------------------------------------------------------ where the run is

    @property
    def progress(self) -> Progress:
        """Where the run is."""
        return Progress(
            rollout=self.rollout_index,
            global_step=self.weight_version,
            epoch=self.current_epoch or self._epoch,
            max_steps=self.planned_steps or -1,
            max_rollouts=self.max_rollouts,
        )

    @property
    def planned_steps(self) -> int | None:
        """Most optimizer steps of the run where they are known: those of whole rollouts."""
        return self.limits.planned_steps(self.trainer)

    # ------------------------------------------------------------------------------------------ Lightning

    @property
    def trainer(self) -> Trainer:
        """The Trainer, once there is one."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        """Complete it before it looks for ``ckpt_path="last"``: as it came it would find nothing, and start over."""
        own: Any = LightningModule.trainer
        own.fset(self, trainer)
        if trainer is not None:
            complete_trainer(trainer)

    def configure_callbacks(self) -> list[Callback]:
        """What every run gets: rollouts on disk, checkpoints, progress, plot, summary."""
        settings.check_trainer(self.trainer)
        settings.check_limits(self.trainer, self.updates, self.planned_steps)
        settings.check_gradient_snr(self.trainer, self.updates)
        self.trainer.num_sanity_val_steps = 0  # validation at the start takes its place
        ends = {"at_start": self.validation.at_start, "at_end": self.validation.at_end}
        return [CloseQueue(), ValidateAtEnds(**ends), *complete_trainer(self.trainer)]

    def setup(self, stage: str) -> None:
        """Load the policy and connect the components with it."""
        self.queue.close()  # a run before, which failed, may have left rollouts in it
        settings.check_data(self.trainer, refill=self.updates.refill_rounds > 0)
        if self.trainer.world_size > 1:
            check_alike(self.trainer, describe_run(self))
        if stage == "fit":
            fitting_ahead.check_run(self.rollouts_ahead, self.trainer)
            self.begin_fit()
        self.configure_model()
        self.announce_tokens()
        if self.objective.router_aux_coef > 0:
            check_router(self.policy.model)
        self.queue.setup(self.trainer, self.policy)
        self.components.setup(self.trainer, self.source(self.sampling.temperature))

    def begin_fit(self) -> None:
        """A new run has logged nothing and needs no weights of an earlier one."""
        super().begin_fit()
        self.metrics_log.clear()
        if self.trainer.global_step == 0:
            self.queue.clear()

    def on_train_start(self) -> None:
        """Build the update; a run that is complete has nothing left to do."""
        super().on_train_start()
        self.update = self.build_update()
        self._rollouts_with_step = self.rollout_index
        self.limits.stop_after_last(self.trainer, self.rollout_index)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Stop where the rollouts before made no optimizer step."""
        super().on_train_batch_start(batch, batch_idx)
        without, most = self.rollout_index - self._rollouts_with_step, self.updates.max_rollouts_without_step
        check_steps(without, most, self.trainer.callback_metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the weights that rollouts in the queue were drawn from."""
        super().on_save_checkpoint(checkpoint)
        resumes = "optimizer_states" in checkpoint  # else it is of weights only
        if self.rollouts_ahead and resumes and not weights_left_out(self.trainer):
            checkpoint[EARLIER] = self.queue.earlier_weights(keep=self.trainer.is_global_zero)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back."""
        super().on_load_checkpoint(checkpoint)
        if self.rollouts_ahead:
            self.queue.load_earlier_weights(self.policy, checkpoint.get(EARLIER, ()))

    def teardown(self, stage: str) -> None:
        """Release what the components hold."""
        self.queue.close()
        self.components.teardown()

    # ------------------------------------------------------------------------------------------ for others

    @property
    def sampler(self) -> Sampler:
        """Draws completions."""
        return self.components.sampler

    @property
    def segmenter(self) -> StepSegmenter:
        """Divides groups into process steps."""
        return self.components.segmenter

    @property
    def reward_model(self) -> RewardSum:
        """The sum of all reward models."""
        return self.components.reward_model

    @property
    def advantage_estimator(self) -> AdvantageEstimator:
        """The algorithm."""
        return self.components.advantage_estimator

    @property
    def validation_metrics(self) -> tuple[str, ...]:
        """Names of what a validation logs, for callbacks that monitor one."""
        return evaluation_names(self._set_names(), self.validation, "val")

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Data columns that the reward models require."""
        return tuple(self.reward_model.columns)
