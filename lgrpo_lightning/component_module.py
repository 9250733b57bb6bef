"""A policy among its components: they sample, segment, score and credit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from lgrpo_lightning.contracts import AdvantageEstimator, RandomKey, Sampler, StepSegmenter
from lgrpo_lightning.distributed.component_call import component_call
from lgrpo_lightning.distributed.ranks import data_gathered, data_rank, shared
from lgrpo_lightning.distributed.stopping import abandonable, abandoning_together
from lgrpo_lightning.policy_module import PolicyModule
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards.weighted_sum import RewardSum
from lgrpo_lightning.training import Objective, Updates
from lgrpo_lightning.training.applicable import trained_groups
from lgrpo_lightning.training.checks import check_credits, check_sampled, check_trees, warn_of_unread
from lgrpo_lightning.training.entropy_bonus import EntropyBonus
from lgrpo_lightning.training.kl_reward import penalised
from lgrpo_lightning.training.refill import Refill, Scored
from lgrpo_lightning.training.scoring import Scoring
from lgrpo_lightning.training.timing import Clock
from lgrpo_lightning.types import Credit, Group, Progress, Prompt, Rewards, Sampling


class ComponentModule(PolicyModule):
    """Calls the components, each in one place. ``GRPOModule`` sets the attributes below."""

    sampler: Sampler
    segmenter: StepSegmenter
    reward_model: RewardSum
    advantage_estimator: AdvantageEstimator
    group_size: int
    objective: Objective
    entropy_bonus: EntropyBonus
    updates: Updates
    max_rollouts: int
    seed: int

    def drawn(self, prompts: Sequence[Prompt], random_key: RandomKey, clock: Clock) -> Scored:
        """Groups of completions with their rewards; ``GRPOModule`` defines it."""
        raise NotImplementedError

    def random_key(self, phase: str, counter: int = 0) -> RandomKey:
        """The key of all that is drawn; outside training the same whenever asked."""
        return RandomKey(self.seed, phase, counter)

    def calling(self, random_key: RandomKey, *key: object) -> AbstractContextManager[None]:
        """Every call of a component is made inside."""
        return component_call(random_key, *key, self.global_rank)

    def sync_sampler(self, version: int | None = None) -> None:
        """The sampler loads the policy's weights; ``version`` where they are not those of the last optimizer step."""
        version = self.weight_version if version is None else version
        with abandoning_together(self.trainer), self.calling(self.random_key("sync", version)):
            self.sampler.sync(version)

    def release_sampler(self) -> None:
        """Nothing more is sampled before the next ``sync_sampler``."""
        with self.calling(self.random_key("release", self.weight_version)):
            self.sampler.release()

    def sampled(
        self, prompts: Sequence[Prompt], count: int, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        """Completions. A stop that is asked for abandons them."""
        own = [prompt.copied() for prompt in prompts]
        with (
            abandonable(self.trainer, random_key, "sampling"),
            self.calling(random_key, "sampler", *(p.uid for p in own[:1])),
        ):
            groups = self.sampler.sample(own, count, sampling=sampling, random_key=random_key)
        check_sampled(self.sampler, groups)
        return list(shared(self.trainer, lambda: groups))

    def segmented(self, groups: Sequence[Group], random_key: RandomKey) -> list[ProcessTree]:
        """The process tree of every group, which knows what is trained."""
        own = [group.masked(mask_truncated=self.updates.mask_truncated) for group in groups]
        with self.calling(random_key, "segmenter", *_first(groups)):
            trees = [self.segmenter.segment(group.copied()) for group in own]
        check_trees(self.segmenter, groups, trees)
        return [tree.masked(group.mask) for group, tree in zip(own, trees, strict=True)]

    def start_rewards(self, random_key: RandomKey, progress: Progress) -> None:
        """Tell the reward models where the run is."""
        with self.calling(random_key, "start"):
            self.reward_model.start(progress)

    def scored(
        self, groups: Sequence[Group], trees: Sequence[ProcessTree], random_key: RandomKey
    ) -> list[Rewards]:
        """The rewards of every group. A stop that is asked for abandons those that are waited for."""
        with (
            abandonable(self.trainer, random_key, "scoring"),
            self.calling(random_key, "reward_model", *_first(groups)),
        ):
            return list(shared(self.trainer, lambda: self.reward_model.score_batch(groups, trees)))

    def penalised(
        self, groups: Sequence[Group], rewards: Sequence[Rewards], random_key: RandomKey
    ) -> list[Rewards]:
        """What credit is given for: the rewards of a training rollout, less the KL penalty where it stands there."""
        if not self.objective.kl_in_reward or random_key.phase != "train" or self.reference is None:
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

    def rewarded(self, groups: Sequence[Group], random_key: RandomKey) -> Scored:
        """Groups with their process trees and rewards."""
        trees = self.segmented(groups, random_key)
        rewards = self.scored(groups, trees, random_key)
        return Scored(
            groups=tuple(groups),
            trees=tuple(trees),
            rewards=tuple(rewards),
            equal=tuple(not learns for learns in trained_groups(rewards, drop_equal=True)),
        )

    def refill(self, random_key: RandomKey, clock: Clock) -> Refill:
        """Replaces groups of equal rewards, as ``updates.refill_rounds`` says."""
        trainer: Any = self.trainer
        data = data_rank(trainer)
        return Refill(
            rounds=self.updates.refill_rounds,
            rank=data.rank,
            size=data.size,
            gather=lambda value: data_gathered(trainer, value),
            further=lambda count, without: trainer.datamodule.further_prompts(count, without),
            draw=lambda prompts: self.drawn(prompts, random_key, clock),
        )

    def credited(
        self,
        groups: Sequence[Group],
        rewards: Sequence[Rewards],
        trees: Sequence[ProcessTree],
        random_key: RandomKey,
    ) -> list[Credit]:
        """The credit of every group."""
        warn_of_unread(self.advantage_estimator, self.reward_model, rewards)
        with self.calling(random_key, "advantage_estimator", *_first(groups)):
            credits = self.advantage_estimator.estimate_batch(rewards, trees, reduce=self.ranks.sum)
        check_credits(self.advantage_estimator, groups, credits)
        return credits

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

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Data columns that the reward models require."""
        return tuple(self.reward_model.columns)

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


def _first(groups: Sequence[Group]) -> list[str]:
    """The uid of the first prompt."""
    return [group.prompt.uid for group in groups[:1]]
