"""The LightningModule: composes the components and is the whole algorithm on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn

from lgrpo_lightning.callbacks import complete_trainer
from lgrpo_lightning.contracts import AdvantageEstimator, RewardModel, Sampler, StepSegmenter, Stream
from lgrpo_lightning.estimators import LambdaGRPO
from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.policy_module import PolicyModule
from lgrpo_lightning.processes.stopping import abandonable, giving_up
from lgrpo_lightning.rewards.weighted_sum import RewardSum
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.segmenters import TokenPrefixSegmenter
from lgrpo_lightning.strategies.ranks import data_gathered, shared
from lgrpo_lightning.trainer.rollout_callback import call_rollout_callbacks
from lgrpo_lightning.training import Loss, Schedule, Updates, Validation, settings
from lgrpo_lightning.training.applicable import applicable, trained_groups
from lgrpo_lightning.training.checks import check_credits, check_trees
from lgrpo_lightning.training.evaluation import Evaluation, evaluation_metrics, evaluation_names
from lgrpo_lightning.training.metrics import Means, add_rollout_metrics, add_weight_lag
from lgrpo_lightning.training.optimizers import default_optimizer
from lgrpo_lightning.training.timing import Clock
from lgrpo_lightning.training.update import Update, mini_batches
from lgrpo_lightning.training.utilization import utilization_metrics
from lgrpo_lightning.training.validate_at_ends import ValidateAtEnds
from lgrpo_lightning.types import Group, Progress, Prompt, Rewards, RolloutBatch, Sampling, TrainBatch


class GRPOModule(PolicyModule):
    """Fine-tunes a causal language model by group-relative policy optimisation.

    One batch of prompts is one rollout and all its optimizer steps. The algorithm is the advantage estimator:
    λ-GRPO (arXiv:2509.21154) by default, GRPO (arXiv:2402.03300) with ``GRPO()``; nothing else differs.

    Args:
        reward_model: Scores completions; several are added up.
        policy: The trained model and how it computes log-probs.
        sampler: Draws completions. Default ``TransformersSampler()``.
        segmenter: Divides a group into process steps. Default ``TokenPrefixSegmenter()``: exact tokens.
        advantage_estimator: The algorithm. Default ``LambdaGRPO()``.
        reward_weights: One weight per reward model; all 1 by default.
        group_size: Completions per prompt (G).
        sampling: How completions are drawn.
        loss: Clipping, KL penalty and normaliser.
        updates: Optimizer steps per rollout, gradient clipping, dropped groups.
        optimizer: Any optimizer class. Default AdamW with lr 1e-6 and no weight decay.
        schedule: Learning rate over optimizer steps.
        validation: What is measured on the validation sets.
        max_rollouts: Stop after so many rollout batches; -1 leaves it to the Trainer.
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
        loss: Loss = Loss(),  # noqa: B008
        updates: Updates = Updates(),  # noqa: B008
        optimizer: OptimizerCallable = default_optimizer,
        schedule: Schedule = Schedule(),  # noqa: B008
        validation: Validation = Validation(),  # noqa: B008
        max_rollouts: int = -1,
        seed: int | None = None,
    ) -> None:
        settings.check_options(group_size, sampling, updates)
        super().__init__(
            policy,
            with_reference=loss.kl_coef > 0,
            optimizer=optimizer,
            schedule=schedule,
            gradient_clip_val=updates.gradient_clip_val,
            on_nonfinite=updates.on_nonfinite,
        )
        self.sampler = sampler or TransformersSampler()
        self.segmenter = segmenter or TokenPrefixSegmenter()
        models = reward_model if isinstance(reward_model, list) else [reward_model]
        self.reward_model = RewardSum(models, reward_weights)
        self.advantage_estimator = advantage_estimator or LambdaGRPO()
        self.group_size = group_size
        self.sampling = sampling
        self.loss = loss
        self.updates = updates
        self.mini_batches = updates.mini_batches  # what the data module has to divide a rollout into
        self.validation = validation
        self.max_rollouts = max_rollouts
        self.seed = settings.run_seed() if seed is None else seed

    # ------------------------------------------------------------------------------------------ the algorithm

    def training_step(self, prompts: Sequence[Prompt], batch_idx: int) -> None:
        """One rollout and its optimizer steps."""
        clock, means = Clock(), Means()
        rollout = self.rollout(prompts, clock)
        call_rollout_callbacks(self.trainer, self, rollout)
        add_weight_lag(means, rollout, self.weight_version)
        batch = TrainBatch.from_groups(rollout.groups, rollout.credits, device=self.device)
        with clock.measure("train"):
            parts = mini_batches(rollout.trained, self.group_size, self.updates.mini_batches)
            self._update(rollout).run(batch, parts, means)
        self.announce_layout()
        self.rollout_index += 1
        add_rollout_metrics(means, rollout, success_threshold=self.validation.success_threshold)
        self._log_rollout(means, clock, tokens=sum(batch.lengths))
        if 0 < self.max_rollouts <= self.rollout_index:
            self.trainer.should_stop = True

    def rollout(self, prompts: Sequence[Prompt], clock: Clock) -> RolloutBatch:
        """Prompt ─Sampler→ Group ─StepSegmenter→ ProcessTree ─RewardModel→ Rewards ─AdvantageEstimator→ Credit."""
        with clock.measure("sample"):
            self._sync()
            groups = self._sample(prompts, self.group_size, self.sampling, "train", self.rollout_index)
            self.sampler.rest()
        with clock.measure("reward"):
            self.reward_model.start(self.progress)
            return applicable(self._judged(self.rollout_index, groups), self.ranks, self.device)

    def _judged(self, index: int, groups: Sequence[Group]) -> RolloutBatch:
        """Groups with what every stage after sampling says of them."""
        trees = [self.segmenter.segment(group) for group in groups]
        check_trees(self.segmenter, groups, trees)
        rewards = self._scored(groups, trees)
        credits = self.advantage_estimator.estimate_batch(rewards, trees, reduce=self.ranks.sum)
        check_credits(self.advantage_estimator, groups, credits)
        return RolloutBatch(
            index=index,
            groups=tuple(groups),
            trees=tuple(trees),
            rewards=tuple(rewards),
            credits=tuple(credits),
            trained=trained_groups([r.outcome for r in rewards], drop_equal=self.updates.drop_equal_groups),
        )

    def _update(self, rollout: RolloutBatch) -> Update:
        """The optimizer steps of one rollout: the clipped surrogate and KL of every token, times its weight."""
        return Update(
            policy=self.policy,
            reference=self.reference,
            loss=self.loss,
            updates=self.updates,
            temperature=self.sampling.temperature,
            max_length=self.sampling.max_new_tokens,
            importance=None if self.sampling.truncated else self.loss.importance,
            corrects=not self.sampler.is_policy,
            ranks=self.ranks,
            backward=self.backward_pass,
            step=self.step_optimizer,
            done=lambda: 0 <= self.trainer.max_steps <= self.global_step,
            allows=lambda attempt: self.allows_step(rollout, attempt),
        )

    # ------------------------------------------------------------------------------------------ evaluation

    def on_validation_epoch_start(self) -> None:
        """Fresh metrics for every set."""
        self.evaluations = {n: Evaluation(self.validation, self.device) for n in self._set_names()}
        self._sync()

    def validation_step(self, prompts: Sequence[Prompt], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Greedy decoding and k samples for every prompt. The noise is the same at every validation."""
        evaluation = list(self.evaluations.values())[dataloader_idx]
        if self.validation.greedy:
            groups = self._sample(prompts, 1, self.sampling.greedy, "greedy")
            evaluation.add_greedy(self._scored(groups))
        if self.validation.k:
            groups = self._sample(prompts, self.validation.k, self.sampling, "validation")
            evaluation.add_samples(groups, self._scored(groups))

    def on_validation_epoch_end(self) -> None:
        """Log each set, and the mean over the sets under the bare names."""
        self.sampler.rest()
        self._log_evaluation("test" if self.trainer.testing else "val")

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(
        self, prompts: Sequence[Prompt], batch_idx: int, dataloader_idx: int = 0
    ) -> RolloutBatch:
        """A group of completions for every prompt, with its rewards and credit."""
        groups = self._sample(prompts, self.group_size, self.sampling, "predict")
        return replace(self._judged(batch_idx, groups), trained=(False,) * len(groups))

    def _sync(self) -> None:
        """The sampler takes over the policy's weights."""
        with giving_up(self.trainer):
            self.sampler.sync(self.weight_version)

    on_predict_epoch_start = _sync

    def _sample(
        self, prompts: Sequence[Prompt], count: int, sampling: Sampling, phase: str, counter: int = 0
    ) -> list[Group]:
        """Completions; outside training the same noise whenever asked. A stop that is asked for gives them up."""
        with abandonable(self.trainer, stream := Stream(self.seed, phase, counter)):
            groups = self.sampler.sample(prompts, count, sampling=sampling, stream=stream)
        return list(shared(self.trainer, lambda: groups))

    def _scored(self, groups: Sequence[Group], trees: Sequence[Any] = ()) -> list[Rewards]:
        trees = trees or [self.segmenter.segment(group) for group in groups]
        return list(shared(self.trainer, lambda: self.reward_model.score_batch(groups, trees)))

    def _set_names(self) -> tuple[str, ...]:
        trainer: Any = self.trainer
        return tuple(getattr(trainer.datamodule, "test_names" if trainer.testing else "validation_names"))

    # ------------------------------------------------------------------------------------------ logging

    def _log_rollout(self, means: Means, clock: Clock, *, tokens: int) -> None:
        """Log the rollout's metrics, the same on every rank."""
        used = utilization_metrics(
            self.policy, passes=self.updates.iterations, seconds=clock.seconds["train"]
        )
        for name, value in (clock.metrics() | self.step_metrics | used).items():
            means.put(name, value)
        merged = Means.merge(data_gathered(self.trainer, means))
        total_tokens = float(self.ranks.sum(torch.tensor(float(tokens), device=self.device)))
        values = merged.values() | {
            "tokens_per_second": total_tokens / clock.total,
            "rollout": float(self.rollout_index - 1),
            "step": float(self.global_step),
        }
        self.log_all(values)

    def _log_evaluation(self, prefix: str) -> None:
        logged = evaluation_metrics(self.evaluations, prefix)
        if logged and self.trainer.state.fn == TrainerFn.FITTING:
            logged["step"] = torch.tensor(float(self.global_step))
        self.log_dict(logged, sync_dist=True, batch_size=1)

    # ------------------------------------------------------------------------------------------ Lightning

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Data columns that the reward models cannot do without."""
        return tuple(self.reward_model.columns)

    @property
    def validation_metrics(self) -> tuple[str, ...]:
        """Names of what a validation logs, for callbacks that monitor one."""
        return evaluation_names(self._set_names(), self.validation, "val")

    @property
    def progress(self) -> Progress:
        """Where the run is."""
        return Progress(
            rollout=self.rollout_index,
            global_step=self.global_step,
            epoch=self.current_epoch,
            max_steps=self.trainer.max_steps,
            max_rollouts=self.max_rollouts,
        )

    @property
    def planned_steps(self) -> int | None:
        """Optimizer steps of the run where they are known."""
        limits = [self.trainer.max_steps, self.max_rollouts * self.updates.steps_per_rollout]
        return min((n for n in limits if n > 0), default=None)

    def configure_callbacks(self) -> list[Callback]:
        """What every run gets: rollouts on disk, checkpoints, progress, plot, summary."""
        settings.check_trainer(self.trainer)
        self.trainer.num_sanity_val_steps = 0  # validation at the start takes its place
        ends = {"at_start": self.validation.at_start, "at_end": self.validation.at_end}
        return [ValidateAtEnds(**ends), *complete_trainer(self.trainer)]

    def setup(self, stage: str) -> None:
        """Connect the sampler with the policy."""
        self.configure_model()
        self.sampler.setup(self.source())

    def teardown(self, stage: str) -> None:
        """Release what the components hold."""
        self.sampler.teardown()
        self.reward_model.teardown()

    @property
    def components(self) -> dict[str, Any]:
        """The swappable parts by name."""
        return {
            "sampler": self.sampler,
            "segmenter": self.segmenter,
            "advantage_estimator": self.advantage_estimator,
            **{f"reward_model/{i}": model for i, model in enumerate(self.reward_model.models)},
        }
