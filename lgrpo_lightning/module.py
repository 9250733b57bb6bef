"""The LightningModule: composes the components and is the whole algorithm on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning.pytorch.cli import OptimizerCallable

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
from lgrpo_lightning.options import run_seed
from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.rewards.weighted_sum import RewardSum
from lgrpo_lightning.rollout_module import RolloutModule
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
from lgrpo_lightning.training.applicable import applicable, trained_groups
from lgrpo_lightning.training.entropy_bonus import EntropyBonus
from lgrpo_lightning.training.metrics import Means
from lgrpo_lightning.training.mini_batches import mini_batches
from lgrpo_lightning.training.optimizers import default_optimizer
from lgrpo_lightning.training.refill import Scored
from lgrpo_lightning.training.timing import Clock
from lgrpo_lightning.training.update import Update
from lgrpo_lightning.types import Prompt, Rollout, Sampling, TrainBatch


class GRPOModule(RolloutModule):
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
        max_rollouts: Stop after so many rollout batches; -1 leaves it to the Trainer.
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
        for key, given, contract in (
            ("sampler", sampler, Sampler),
            ("segmenter", segmenter, StepSegmenter),
            ("advantage_estimator", advantage_estimator, AdvantageEstimator),
            ("loss", loss, PolicyLoss),
        ):
            if given is not None:
                settings.check_component(key, given, contract)
        super().__init__(
            policy,
            with_reference=objective.kl_coef > 0,
            reference_sync=objective.reference_sync,
            optimizer=optimizer,
            schedule=schedule,
            gradient_clip_val=updates.gradient_clip_val,
            on_nonfinite=updates.on_nonfinite,
        )
        self.sampler = sampler or TransformersSampler()
        self.segmenter = segmenter or TokenPrefixSegmenter()
        models = reward_model if isinstance(reward_model, list | tuple) else [reward_model]
        self.reward_model = RewardSum([settings.as_reward_model(model) for model in models], reward_weights)
        self.advantage_estimator = advantage_estimator or LambdaGRPO()
        self.group_size = group_size
        self.sampling = sampling
        self.loss = loss or ClippedSurrogate()
        self.objective = objective
        self.entropy_bonus = EntropyBonus(objective)
        self.updates = updates
        fitting_loss.check_weights(self.loss, self.advantage_estimator)
        fitting_loss.check_penalty(objective, self.advantage_estimator)
        fitting_loss.check_correction(self.loss, objective, self.sampler, sampling)
        self.mini_batches = updates.mini_batches  # what the data module has to divide a rollout into
        self.validation = validation
        fitting_ahead.check_options(rollouts_ahead, self.components, sampling, updates)
        self.max_rollouts, self.rollouts_ahead = max_rollouts, rollouts_ahead
        self.seed = run_seed() if seed is None else seed

    # ------------------------------------------------------------------------------------------ the algorithm

    def training_step(self, prompts: Sequence[Prompt], batch_idx: int) -> None:
        """One rollout and its optimizer steps."""
        clock, means = Clock(), Means()
        rollout = self.rollout(prompts, clock)
        self.show_rollout(rollout, means)
        batch = TrainBatch.from_groups(
            rollout.groups,
            rollout.credits,
            device=self.device,
            mask_truncated=rollout.mask_truncated,
        )
        with clock.measure("train"):
            parts = mini_batches(rollout.trained, self.group_size, self.updates.mini_batches)
            self.update(rollout).run(batch, parts, means)
        self.finish_rollout(rollout, means, clock)

    def rollout(self, prompts: Sequence[Prompt], clock: Clock) -> Rollout:
        """Prompt ─Sampler→ Group ─StepSegmenter→ ProcessTree ─RewardModel→ Rewards ─AdvantageEstimator→ Credit."""
        random_key = self.random_key("train", self.rollout_index)
        if self.rollouts_ahead:
            kept, replaced = self.drawn_ahead(prompts, clock), Scored()
        else:
            with clock.measure("reward"):
                self.start_rewards(random_key, self.progress)
            kept, replaced = self.refill(random_key, clock)(self.drawn(prompts, random_key, clock))
        with clock.measure("reward"):
            rollout = self.judged(self.rollout_index, kept, random_key)
            return replace(
                applicable(rollout, self.ranks, self.device), replaced=replaced.untrained(rollout.index)
            )

    def drawn(self, prompts: Sequence[Prompt], random_key: RandomKey, clock: Clock) -> Scored:
        """Groups of completions with their rewards."""
        with clock.measure("sample"):
            self.sync_sampler()
            groups = self.sampled(prompts, self.group_size, self.sampling, random_key)
            self.release_sampler()
        with clock.measure("reward"):
            return self.rewarded(groups, random_key)

    def judged(self, index: int, scored: Scored, random_key: RandomKey) -> Rollout:
        """Scored groups with their credit."""
        worth = self.penalised(scored.groups, scored.rewards, random_key)
        credits = self.credited(scored.groups, worth, scored.trees, random_key)
        return Rollout(
            index=index,
            groups=scored.groups,
            trees=scored.trees,
            rewards=tuple(replace(r, metrics=w.metrics) for r, w in zip(scored.rewards, worth, strict=True)),
            credits=tuple(credits),
            trained=trained_groups(scored.rewards, drop_equal=self.updates.drop_equal_groups),
            mask_truncated=self.updates.mask_truncated,
        )

    def update(self, rollout: Rollout) -> Update:
        """The optimizer steps of one rollout: the policy loss of every token, times its weight."""
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
            allows=lambda attempt: self.allows_step(rollout, attempt),
        )

    def predict_step(self, prompts: Sequence[Prompt], batch_idx: int, dataloader_idx: int = 0) -> Rollout:
        """A group of completions for every prompt, with its rewards and credit."""
        groups = self.sampled(
            prompts, self.group_size, self.sampling, random_key := self.random_key("predict")
        )
        judged = self.judged(batch_idx, self.rewarded(groups, random_key), random_key)
        return replace(judged, trained=(False,) * len(groups))
