"""The LightningModule: one training step from prompts to optimizer steps, and the run around it.

Formulas: credit in ``estimators/``, policy losses in ``losses/``, the whole loss of a token in
``training/token_loss.py``, its sum over a micro-batch and the backward pass in ``training/update.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn

from lgrpo_lightning.callbacks import complete_trainer, list_missing_callbacks
from lgrpo_lightning.callbacks.close_queue import CloseQueue
from lgrpo_lightning.callbacks.rollout_callback import call_rollout_callbacks
from lgrpo_lightning.callbacks.validate_at_ends import ValidateAtEnds
from lgrpo_lightning.contracts import AdvantageEstimator, PolicyLoss, RandomKey, RewardModel, Sampler, StepSegmenter
from lgrpo_lightning.distributed.ranks import find_data_rank, gather_data_ranks
from lgrpo_lightning.estimators import LambdaGRPO
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.losses.clipped_surrogate import ClippedSurrogate
from lgrpo_lightning.monitoring.metrics import Means, add_weight_lag
from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.policy.loading import read_run_seed
from lgrpo_lightning.policy.router import check_router
from lgrpo_lightning.rewards.weighted_sum import RewardSum
from lgrpo_lightning.rollouts.components import Components
from lgrpo_lightning.rollouts.queue import RolloutQueue
from lgrpo_lightning.rollouts.refill import ScoredGroups, replace_equal_groups
from lgrpo_lightning.rollouts.selection import skip_if_unrewarded
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.segmenters import TokenPrefixSegmenter
from lgrpo_lightning.training import Objective, Schedule, Updates, Validation, compatibility, settings
from lgrpo_lightning.training.alike import check_alike, describe_run
from lgrpo_lightning.training.batch_scorer import subtract_kl_penalty
from lgrpo_lightning.training.evaluation import Evaluations, evaluation_metrics, evaluation_names
from lgrpo_lightning.training.metrics_log import Clock, MetricsLog
from lgrpo_lightning.training.optimizers import default_optimizer
from lgrpo_lightning.training.policy_module import PolicyModule
from lgrpo_lightning.training.run_limits import check_steps, plan_rollouts, stop_after_last
from lgrpo_lightning.training.update import Update, split_into_mini_batches
from lgrpo_lightning.types import Prompt, Rewards, Rollout, TrainBatch


class GRPOModule(PolicyModule):
    """Fine-tunes a causal language model by group-relative policy optimisation.

    One batch of prompts gives one rollout and all its optimizer steps; optimization is manual. λ-GRPO
    (arXiv:2509.21154, the default) and GRPO (arXiv:2402.03300, ``GRPO()``) differ only in the advantage estimator:
    in λ-GRPO each token weighs one over the number of completions that share it. ``PolicyModule`` has what is the same
    for every algorithm: policy and reference, optimizer, schedule and clipping, ranks, counters, refused steps.

    Args:
        reward_model: Scores completions; several are added up. A function becomes ``RewardFunction(function)``.
        policy: The trained model and how it computes log-probs.
        sampler: Draws completions. Default ``TransformersSampler()``.
        segmenter: Divides a group into process steps. Default ``TokenPrefixSegmenter()``: exact tokens.
        advantage_estimator: Gives each token its advantage and weight. Default ``LambdaGRPO()``.
        reward_weights: One weight per reward model; all 1 by default.
        group_size: Completions per prompt (G).
        sampling: How completions are drawn.
        loss: Loss of a token, from its log-probs and its advantage. Default ``ClippedSurrogate()``.
        objective: KL penalty, entropy bonus, correction for the sampler, router loss.
        updates: Rollouts of the run, optimizer steps per rollout, gradient clipping, which groups are trained on.
        optimizer: Any optimizer class. Default AdamW with lr 1e-6 and no weight decay.
        schedule: Learning rate over optimizer steps.
        validation: What is measured on the validation sets.
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
    ) -> None:
        sampler, segmenter = sampler or TransformersSampler(), segmenter or TokenPrefixSegmenter()
        estimator, loss = advantage_estimator or LambdaGRPO(), loss or ClippedSurrogate()
        models = reward_model if isinstance(reward_model, list | tuple) else [reward_model]
        settings.check_options(group_size, sampling, updates)
        settings.check_kinds(sampler=sampler, segmenter=segmenter, advantage_estimator=estimator, loss=loss)
        super().__init__(policy, objective=objective, updates=updates, optimizer=optimizer, schedule=schedule)
        self.components = Components(
            sampler=sampler,
            segmenter=segmenter,
            reward_model=RewardSum([settings.as_reward_model(model) for model in models], reward_weights),
            advantage_estimator=estimator,
            mask_truncated=updates.mask_truncated,
            drop_equal_groups=updates.drop_equal_groups,
            keep_per_group=updates.keep_per_group,
            seed=read_run_seed(),
        )
        compatibility.check_together(loss, objective, updates, sampling, self.components.by_name)
        self.group_size, self.sampling, self.loss, self.validation = group_size, sampling, loss, validation
        self.run_state.parts |= self.components.by_name
        self.queue = RolloutQueue(
            self.components, group_size=group_size, sampling=sampling, ahead=updates.rollouts_ahead
        )
        self.evaluations = Evaluations(validation, self.components, sampling)
        self.metrics_log = MetricsLog(validation, updates)
        self.update: Update  # log-probs, loss and backward pass of a rollout; built in ``on_train_start``

    # ------------------------------------------------------------------------------------------ the algorithm

    def training_step(self, prompts: Sequence[Prompt], batch_idx: int) -> None:
        """One rollout and its optimizer steps; optimization is manual, so no loss is returned."""
        clock, means = Clock(), Means()
        rollout = self.draw_rollout(prompts, clock)
        expected = self.queue.expected_version if self.updates.rollouts_ahead else self.weight_version
        add_weight_lag(means, rollout, self.weight_version, expected=expected)  # the weights that sampled it
        call_rollout_callbacks(self.trainer, self, rollout)
        with clock.measure("train"):
            self.train_on(rollout, means)
            self.guard.check_weights()
        self.queue.end_update()
        self.rollout_index += 1
        self.announce_layout()
        values = self.metrics_log.collect(self.trainer, self.policy, rollout, means, clock, self.step_metrics)
        self.log_dict(values, batch_size=1)
        stop_after_last(self.trainer, self.updates, self.rollout_index)

    def draw_rollout(self, prompts: Sequence[Prompt], clock: Clock) -> Rollout:
        """Prompt ─Sampler→ Group ─StepSegmenter→ ProcessTree ─RewardModel→ Rewards ─AdvantageEstimator→ Credit."""
        random_key = self.components.random_key("train", self.rollout_index)
        if self.updates.rollouts_ahead:  # k: these prompts were sampled k updates ago; now those of k steps later are
            requests = plan_rollouts(self.trainer, self.updates, prompts, self.progress)
            scored = self.queue.take(requests, self.weight_version, clock.seconds)
        else:
            with clock.measure("reward"):
                self.components.start_rewards(random_key, self.progress)
            scored = self.sample_and_score(prompts, random_key, clock)
        scored, replaced = self.replace_equal_groups(scored, random_key, clock)
        with clock.measure("reward"):
            rewards: Sequence[Rewards] = scored.rewards
            if self.reference is not None and self.objective.kl_in_reward:
                # the update's scorer makes equally many forward passes on every rank
                rewards = subtract_kl_penalty(scored, self.reference, self.update.scorer, self.objective.kl_coef)
            rollout = self.components.assign_credit(self.rollout_index, scored, rewards, random_key)
            rollout = skip_if_unrewarded(rollout, self.ranks, self.device)
        return replace(rollout, replaced=replaced.as_untrained_rollout(rollout.index))

    def sample_and_score(self, prompts: Sequence[Prompt], random_key: RandomKey, clock: Clock) -> ScoredGroups:
        """Groups from the policy as it is, with process trees and rewards. Collective."""
        with clock.measure("sample"):
            self.components.sync_sampler(self.weight_version)
            groups = self.components.sample_groups(prompts, self.group_size, self.sampling, random_key)
            self.components.release_sampler(self.weight_version)
        with clock.measure("reward"):
            return self.components.score_groups(groups, random_key)

    def replace_equal_groups(
        self, scored: ScoredGroups, random_key: RandomKey, clock: Clock
    ) -> tuple[ScoredGroups, ScoredGroups]:
        """(the groups that are left, those that were replaced), in at most ``updates.refill_rounds`` rounds."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return replace_equal_groups(
            scored,
            rounds=self.updates.refill_rounds,
            rank=find_data_rank(self.trainer),
            gather=lambda value: gather_data_ranks(self.trainer, value),
            further=lambda count, without: data.draw_further_prompts(count, without),
            draw=lambda prompts: self.sample_and_score(prompts, random_key, clock),
        )

    def train_on(self, rollout: Rollout, means: Means) -> None:
        """``iterations`` x ``mini_batches`` optimizer steps on the trained groups of a rollout."""
        places = rollout.rows
        batch = TrainBatch.from_groups(
            rollout.groups, rollout.credits, device=self.device, mask_truncated=rollout.mask_truncated, rows=places
        )
        parts = split_into_mini_batches([at for at, _ in places], rollout.trained, self.updates.mini_batches)
        fixed = self.update.prepare(batch, parts, means)  # log-probs before the first step, and of the reference
        for _ in range(self.updates.iterations):
            for rows in parts:
                pending = self.update.accumulate(batch, rows, fixed, means)  # loss and backward pass
                if pending is not None and self.allows_step(rollout, pending, means):
                    self.update.count_step(pending, means)
                    self.step_optimizer()  # and the schedule; clipping in PolicyModule

    # ------------------------------------------------------------------------------------------ evaluation

    def on_validation_epoch_start(self) -> None:
        """Fresh metrics for every set, once the rollouts that are being drawn have left the sampler."""
        self.queue.wait()
        self.evaluations.start(self._set_names(), self.device)
        self.components.start_evaluation("validation", self.weight_version, self.progress)

    def validation_step(self, prompts: Sequence[Prompt], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Greedy decoding and k samples for every prompt."""
        self.evaluations.measure(dataloader_idx, prompts)

    def on_validation_epoch_end(self) -> None:
        """Log each set, and the mean over the sets under the bare names."""
        self.components.release_sampler(self.weight_version)
        logged = evaluation_metrics(self.evaluations.sets, "test" if self.trainer.testing else "val")
        if logged and self.trainer.state.fn == TrainerFn.FITTING:
            logged["step"] = torch.tensor(float(self.global_step))
        self.log_dict(logged, sync_dist=True, batch_size=1)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def on_predict_epoch_start(self) -> None:
        """Get ready to sample."""
        self.components.start_evaluation("predict", self.weight_version, self.progress)

    def predict_step(self, prompts: Sequence[Prompt], batch_idx: int, dataloader_idx: int = 0) -> Rollout:
        """A group of completions for every prompt, with its rewards and credit."""
        scored = self.evaluations.draw(prompts, self.group_size, self.sampling, "predict")
        random_key = self.components.random_key("predict")
        rollout = self.components.assign_credit(batch_idx, scored, scored.rewards, random_key)
        return replace(rollout, trained=(False,) * len(scored))

    @property
    def refusal_of_images(self) -> str | None:
        """Why prompts of this run may have no images; None where they may."""
        return settings.explain_no_images(self.components.sampler, self.policy_config)

    def _set_names(self) -> tuple[str, ...]:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return tuple(data.test_names if self.trainer.testing else data.validation_names)

    # ------------------------------------------------------------------------------------------ the run

    @property
    def trainer(self) -> Trainer:
        """The Trainer, once there is one."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        """Lightning looks for ``ckpt_path="last"`` before ``configure_callbacks``, so add the callbacks here."""
        own: Any = LightningModule.trainer
        own.fset(self, trainer)
        if trainer is not None:
            complete_trainer(trainer)

    def configure_callbacks(self) -> list[Callback]:
        """What every run gets: rollouts on disk, checkpoints, progress, plot, summary."""
        settings.check_trainer(self.trainer, self.updates, self.planned_steps)
        self.trainer.num_sanity_val_steps = 0  # validation at the start takes its place
        ends = {"at_start": self.validation.at_start, "at_end": self.validation.at_end}
        return [CloseQueue(), ValidateAtEnds(**ends), *list_missing_callbacks(self.trainer)]

    def setup(self, stage: str) -> None:
        """Load the policy and connect the components with it."""
        self.queue.close()  # a run before, which failed, may have left rollouts in it
        settings.check_data(self.trainer, refill=self.updates.refill_rounds > 0)
        if self.trainer.world_size > 1:
            check_alike(self.trainer, describe_run(self))
        if stage == "fit":
            compatibility.check_ahead_in_run(self.updates.rollouts_ahead, self.trainer)
            self.begin_fit()
            self.metrics_log.clear()
            if self.trainer.global_step == 0:  # a second ``fit`` of this Trainer continues: keep the queue's weights
                self.queue.clear()
        self.configure_model()  # Lightning calls it after this hook, too late for the components
        self.announce_tokens()
        if self.objective.router_aux_coef > 0:
            check_router(self.policy.model)
        self.queue.setup(self.trainer, self.policy)
        self.components.setup(self.trainer, self.source(self.sampling.temperature))

    def on_train_start(self) -> None:
        """Build the update; a run that is complete has nothing left to do."""
        super().on_train_start()
        on_policy = self.components.sampler.is_policy and not self.updates.rollouts_ahead
        self.update = Update(
            policy=self.policy,
            reference=self.reference,
            loss=self.loss,
            objective=self.objective,
            updates=self.updates,
            bonus=self.entropy_bonus,
            temperature=self.sampling.temperature,
            max_length=self.sampling.max_new_tokens,
            importance=None if self.sampling.truncated else self.objective.importance,  # None: no sampler ratios
            corrects=not on_policy,  # whether sampler ratios weigh the loss; else they are only logged
            trial=self.layout_trial,
            ranks=self.ranks,
            backward=self.backward_pass,
        )
        stop_after_last(self.trainer, self.updates, self.rollout_index)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Stop the run if too many rollouts in a row made no optimizer step."""
        super().on_train_batch_start(batch, batch_idx)
        without = self.rollout_index - self.rollouts_at_last_step
        check_steps(self.updates, without, self.trainer.callback_metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the weights that rollouts in the queue were drawn from."""
        super().on_save_checkpoint(checkpoint)
        self.queue.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the weights that rollouts in the queue were drawn from."""
        super().on_load_checkpoint(checkpoint)
        self.queue.load(checkpoint, self.policy)

    def teardown(self, stage: str) -> None:
        """Release what the components hold."""
        self.queue.close()
        self.components.teardown()

    @property
    def needs_reference(self) -> bool:
        """Whether the run keeps a reference."""
        return compatibility.reads_reference(self.objective, self.components.by_name)

    @property
    def reward_model(self) -> RewardSum:
        """The sum of all reward models; the data module checks its columns with it."""
        return self.components.reward_model

    @property
    def validation_metrics(self) -> tuple[str, ...]:
        """Names of what a validation logs, for callbacks that monitor one."""
        return evaluation_names(self._set_names(), self.validation, "val")
