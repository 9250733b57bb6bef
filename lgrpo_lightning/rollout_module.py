"""A policy among its components: they sample, segment, score and credit; a run is evaluated and logged."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn

from lgrpo_lightning.callbacks import complete_trainer
from lgrpo_lightning.contracts import AdvantageEstimator, Sampler, StepSegmenter, Stream
from lgrpo_lightning.policy.router import check_router
from lgrpo_lightning.policy_module import PolicyModule
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.processes.stopping import abandonable, abandoning_together
from lgrpo_lightning.rewards.weighted_sum import RewardSum
from lgrpo_lightning.strategies.ranks import data_gathered, data_rank, shared
from lgrpo_lightning.trainer.component_call import component_call
from lgrpo_lightning.trainer.rollout_callback import call_rollout_callbacks
from lgrpo_lightning.training import Objective, Updates, Validation, settings
from lgrpo_lightning.training.applicable import trained_groups
from lgrpo_lightning.training.checks import check_credits, check_trees, warn_of_unread
from lgrpo_lightning.training.entropy_bonus import EntropyBonus
from lgrpo_lightning.training.evaluation import Evaluation, evaluation_metrics, evaluation_names
from lgrpo_lightning.training.kl_reward import penalised
from lgrpo_lightning.training.metrics import Means, add_rollout_metrics, add_weight_lag, pass_rates
from lgrpo_lightning.training.refill import Refill, Scored
from lgrpo_lightning.training.scoring import Scoring
from lgrpo_lightning.training.timing import Clock
from lgrpo_lightning.training.utilization import utilization_metrics
from lgrpo_lightning.training.validate_at_ends import ValidateAtEnds
from lgrpo_lightning.types import Credit, Group, Progress, Prompt, Rewards, RolloutBatch, Sampling


class RolloutModule(PolicyModule):
    """Calls the components, each in one place, and does what a run does beside its algorithm.

    ``GRPOModule`` sets the attributes below.
    """

    sampler: Sampler
    segmenter: StepSegmenter
    reward_model: RewardSum
    advantage_estimator: AdvantageEstimator
    sampling: Sampling
    objective: Objective
    entropy_bonus: EntropyBonus
    updates: Updates
    validation: Validation
    max_rollouts: int
    seed: int

    def drawn(self, prompts: Sequence[Prompt], stream: Stream, clock: Clock) -> Scored:
        """Groups of completions with their rewards; ``GRPOModule`` defines it."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------ the components

    def stream(self, phase: str, counter: int = 0) -> Stream:
        """The key of all that is drawn; outside training the same whenever asked."""
        return Stream(self.seed, phase, counter)

    def calling(self, stream: Stream, *key: object) -> AbstractContextManager[None]:
        """Every call of a component is made inside."""
        return component_call(stream, *key, self.global_rank)

    def sync_sampler(self) -> None:
        """The sampler loads the policy's weights."""
        with abandoning_together(self.trainer), self.calling(self.stream("sync", self.weight_version)):
            self.sampler.sync(self.weight_version)

    def release_sampler(self) -> None:
        """Nothing more is sampled before the next ``sync_sampler``."""
        with self.calling(self.stream("release", self.weight_version)):
            self.sampler.release()

    def sampled(
        self, prompts: Sequence[Prompt], count: int, sampling: Sampling, stream: Stream
    ) -> list[Group]:
        """Completions. A stop that is asked for abandons them."""
        own = [prompt.copied() for prompt in prompts]
        with abandonable(self.trainer, stream), self.calling(stream, "sampler", *(p.uid for p in own[:1])):
            groups = self.sampler.sample(own, count, sampling=sampling, stream=stream)
        return list(shared(self.trainer, lambda: groups))

    def segmented(self, groups: Sequence[Group], stream: Stream) -> list[ProcessTree]:
        """The process tree of every group."""
        with self.calling(stream, "segmenter", *_first(groups)):
            trees = [self.segmenter.segment(group.copied()) for group in groups]
        check_trees(self.segmenter, groups, trees)
        return trees

    def start_rewards(self, stream: Stream) -> None:
        """Tell the reward models where the run is."""
        with self.calling(stream, "start"):
            self.reward_model.start(self.progress)

    def scored(self, groups: Sequence[Group], trees: Sequence[ProcessTree], stream: Stream) -> list[Rewards]:
        """The rewards of every group."""
        with self.calling(stream, "reward_model", *_first(groups)):
            return list(shared(self.trainer, lambda: self.reward_model.score_batch(groups, trees)))

    def penalised(self, groups: Sequence[Group], rewards: Sequence[Rewards], stream: Stream) -> list[Rewards]:
        """What credit is given for: the rewards of a training rollout, less the KL penalty where it stands there."""
        if not self.objective.kl_in_reward or stream.phase != "train" or self.reference is None:
            return list(rewards)
        scoring = Scoring(policy=self.policy, ranks=self.ranks, temperature=self.sampling.temperature)
        return penalised(
            rewards,
            groups,
            scoring=scoring,
            policy=self.policy,
            reference=self.reference,
            coefficient=self.objective.kl_coef,
        )

    def rewarded(self, groups: Sequence[Group], stream: Stream) -> Scored:
        """Groups with their process trees and rewards."""
        trees = self.segmented(groups, stream)
        rewards = self.scored(groups, trees, stream)
        return Scored(
            groups=tuple(groups),
            trees=tuple(trees),
            rewards=tuple(rewards),
            equal=tuple(not learns for learns in trained_groups(rewards, drop_equal=True)),
        )

    def refill(self, stream: Stream, clock: Clock) -> Refill:
        """Replaces groups of equal rewards, as ``updates.refill_rounds`` says."""
        trainer: Any = self.trainer
        data = data_rank(trainer)
        return Refill(
            rounds=self.updates.refill_rounds,
            rank=data.rank,
            size=data.size,
            gather=lambda value: data_gathered(trainer, value),
            further=lambda count, without: trainer.datamodule.further_prompts(count, without),
            draw=lambda prompts: self.drawn(prompts, stream, clock),
        )

    def credited(
        self,
        groups: Sequence[Group],
        rewards: Sequence[Rewards],
        trees: Sequence[ProcessTree],
        stream: Stream,
    ) -> list[Credit]:
        """The credit of every group."""
        warn_of_unread(self.advantage_estimator, self.reward_model, rewards)
        with self.calling(stream, "advantage_estimator", *_first(groups)):
            credits = self.advantage_estimator.estimate_batch(rewards, trees, reduce=self.ranks.sum)
        check_credits(self.advantage_estimator, groups, credits)
        return credits

    # ------------------------------------------------------------------------------------------ evaluation

    def on_validation_epoch_start(self) -> None:
        """Fresh metrics for every set."""
        self.evaluations = {n: Evaluation(self.validation, self.device) for n in self._set_names()}
        self.sync_sampler()

    def validation_step(self, prompts: Sequence[Prompt], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Greedy decoding and k samples for every prompt. The noise is the same at every validation."""
        evaluation = list(self.evaluations.values())[dataloader_idx]
        if self.validation.greedy:
            groups = self.sampled(prompts, 1, self.sampling.greedy, stream := self.stream("greedy"))
            evaluation.add_greedy(self.scored(groups, self.segmented(groups, stream), stream))
        if self.validation.k:
            stream, count = self.stream("validation"), self.validation.k
            groups = self.sampled(prompts, count, self.sampling, stream)
            evaluation.add_samples(groups, self.scored(groups, self.segmented(groups, stream), stream))

    def on_validation_epoch_end(self) -> None:
        """Log each set, and the mean over the sets under the bare names."""
        self.release_sampler()
        logged = evaluation_metrics(self.evaluations, "test" if self.trainer.testing else "val")
        if logged and self.trainer.state.fn == TrainerFn.FITTING:
            logged["step"] = torch.tensor(float(self.global_step))
        self.log_dict(logged, sync_dist=True, batch_size=1)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end
    on_predict_epoch_start = sync_sampler

    def _set_names(self) -> tuple[str, ...]:
        trainer: Any = self.trainer
        return tuple(getattr(trainer.datamodule, "test_names" if trainer.testing else "validation_names"))

    # ------------------------------------------------------------------------------------------ logging

    def show_rollout(self, rollout: RolloutBatch, means: Means) -> None:
        """Hand a rollout to the callbacks, before the update."""
        call_rollout_callbacks(self.trainer, self, rollout)
        add_weight_lag(means, rollout, self.weight_version)

    def finish_rollout(self, rollout: RolloutBatch, means: Means, clock: Clock) -> None:
        """Count a rollout whose update is done, log its metrics, the same on every rank, and stop after the last."""
        self.announce_layout()
        self.rollout_index += 1
        add_rollout_metrics(means, rollout.sampled, success_threshold=self.validation.success_threshold)
        passes, seconds = self.updates.iterations, clock.seconds["train"]
        self.note_pass_rates(rollout, means)
        used = utilization_metrics(self.policy, passes=passes, seconds=seconds)
        for name, value in (clock.metrics() | self.step_metrics | used).items():
            means.put(name, value)
        merged = Means.merge(data_gathered(self.trainer, means.settle()))
        tokens = torch.tensor(
            float(sum(len(r) for g in rollout.sampled.groups for r in g.rollouts)), device=self.device
        )
        values = merged.values() | {
            "tokens_per_second": float(self.ranks.sum(tokens)) / clock.total,
            "rollout": float(self.rollout_index - 1),
            "step": float(self.global_step),
        }
        self.log_all(values)
        self.stop_after_last()

    def note_pass_rates(self, rollout: RolloutBatch, means: Means) -> None:
        """Tell the curriculum, where there is one, how often the prompts of a rollout were solved."""
        trainer: Any = self.trainer
        if (rates := getattr(trainer.datamodule, "pass_rates", None)) is None:
            return
        own = pass_rates(rollout.sampled, success_threshold=self.validation.success_threshold)
        for theirs in data_gathered(trainer, own):
            rates.add(theirs)
        for name, value in rates.metrics().items():
            means.put(name, value)

    def stop_after_last(self) -> None:
        """Have the run end where all its rollouts are done."""
        if 0 < self.max_rollouts <= self.rollout_index:
            self.trainer.should_stop = True

    # ------------------------------------------------------------------------------------------ Lightning

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Data columns that the reward models require."""
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
        settings.check_gradient_snr(self.trainer, self.updates)
        self.trainer.num_sanity_val_steps = 0  # validation at the start takes its place
        ends = {"at_start": self.validation.at_start, "at_end": self.validation.at_end}
        return [ValidateAtEnds(**ends), *complete_trainer(self.trainer)]

    def setup(self, stage: str) -> None:
        """Connect the sampler with the policy."""
        settings.check_data(self.trainer, refill=self.updates.refill_rounds > 0)
        if stage == "fit":
            self.begin_fit()
        self.configure_model()
        self.announce_tokens()
        if self.objective.router_aux_coef > 0:
            check_router(self.policy.model)
        with self.calling(self.stream("setup")):
            self.sampler.setup(self.source())
            self.reward_model.setup(self.source())

    def on_train_start(self) -> None:
        """A run that is complete has nothing left to do."""
        super().on_train_start()
        self.stop_after_last()

    def teardown(self, stage: str) -> None:
        """Release what the components hold."""
        with self.calling(self.stream("teardown")):
            self.sampler.teardown()
            self.reward_model.teardown()

    @property
    def components(self) -> dict[str, Any]:
        """The swappable parts by name."""
        return {
            "sampler": self.sampler,
            "segmenter": self.segmenter,
            "advantage_estimator": self.advantage_estimator,
            "entropy_bonus": self.entropy_bonus,
            **{f"reward_model/{i}": model for i, model in enumerate(self.reward_model.models)},
        }


def _first(groups: Sequence[Group]) -> list[str]:
    """The uid of the first prompt."""
    return [group.prompt.uid for group in groups[:1]]
