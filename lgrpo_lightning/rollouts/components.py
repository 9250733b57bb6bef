"""The components of a run, each called in one place."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from lgrpo_lightning.contracts import AdvantageEstimator, RandomKey, Sampler, StepSegmenter
from lgrpo_lightning.distributed.component_call import isolate_call
from lgrpo_lightning.distributed.ranks import find_ranks, share
from lgrpo_lightning.distributed.stopping import abandon_together, allow_abandoning
from lgrpo_lightning.errors import check_metrics
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import PolicySource
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards.weighted_sum import RewardSum
from lgrpo_lightning.rollouts.checks import check_credits, check_trees, warn_of_unread
from lgrpo_lightning.rollouts.refill import ScoredGroups
from lgrpo_lightning.rollouts.selection import choose_varied, keep_members, trained_groups
from lgrpo_lightning.types import Group, Progress, Prompt, Rewards, Rollout


@dataclass(kw_only=True, eq=False)
class Components:
    """Calls the sampler, the segmenter, the rewards and the estimator.

    Every call is made without gradients, with random generators seeded from its key, and its answer is checked
    against the component's contract.

    Attributes:
        mask_truncated: Leave the tokens of truncated completions out of the loss.
        drop_equal_groups: Leave out groups whose rewards are all equal.
        keep_per_group: Leave out all but so many completions of each group; None: none is left out.
        seed: Of the run.
    """

    sampler: Sampler
    segmenter: StepSegmenter
    reward_model: RewardSum
    advantage_estimator: AdvantageEstimator
    mask_truncated: bool
    drop_equal_groups: bool
    keep_per_group: int | None
    seed: int
    _trainer: Any = field(default=None, init=False)

    @property
    def by_name(self) -> dict[str, Any]:
        """Name → component, as checkpoints and messages call them."""
        return {
            "sampler": self.sampler,
            "segmenter": self.segmenter,
            "advantage_estimator": self.advantage_estimator,
            **{f"reward_model/{i}": model for i, model in enumerate(self.reward_model.models)},
        }

    def random_key(self, phase: str, counter: int = 0) -> RandomKey:
        """The key of everything that is drawn in a phase; outside training it never changes."""
        return RandomKey(self.seed, phase, counter)

    def setup(self, trainer: Any, source: PolicySource) -> None:
        """Connect the sampler and the rewards with the policy."""
        self._trainer = trainer
        with self._call(self.random_key("setup")):
            self.sampler.setup(source)
            self.reward_model.setup(source)

    def teardown(self) -> None:
        """Release what they hold."""
        with self._call(self.random_key("teardown")):
            self.sampler.teardown()
            self.reward_model.teardown()

    def sync_sampler(self, version: int) -> None:
        """Have the sampler load the policy's weights, which have had ``version`` optimizer steps. Collective."""
        with abandon_together(self._trainer), self._call(self.random_key("sync", version)):
            self.sampler.sync(version)

    def prepare_sampler(self, sampling: Sampling, version: int) -> None:
        """Have the sampler do what it cannot do on another thread. Collective."""
        with abandon_together(self._trainer), self._call(self.random_key("ready", version)):
            self.sampler.ready(sampling)

    def release_sampler(self, version: int) -> None:
        """Tell the sampler that nothing more is drawn before the next ``sync_sampler``."""
        with self._call(self.random_key("release", version)):
            self.sampler.release()

    def start_rewards(self, random_key: RandomKey, progress: Progress) -> None:
        """Tell the reward models where the run is."""
        with self._call(random_key, "start"):
            self.reward_model.start(progress)

    def start_evaluation(self, phase: str, version: int, progress: Progress) -> None:
        """Have the sampler load the policy's weights, and tell the reward models where the run is. Collective."""
        self.sync_sampler(version)
        self.start_rewards(self.random_key(phase), progress)

    def sample_groups(
        self, prompts: Sequence[Prompt], count: int, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        """``count`` completions for every prompt. A stop that is asked for abandons them."""
        own = [prompt.copy() for prompt in prompts]
        with (
            allow_abandoning(self._trainer, random_key, "sampling"),
            self._call(random_key, "sampler", *(p.uid for p in own[:1])),
        ):
            groups = self.sampler.sample(own, count, sampling=sampling, random_key=random_key)
        metrics = {name for group in groups for completion in group.completions for name in completion.metrics}
        check_metrics(type(self.sampler).__name__, metrics)
        return list(share(self._trainer, lambda: groups))

    def segment(self, groups: Sequence[Group], random_key: RandomKey) -> list[ProcessTree]:
        """The process tree of every group, which knows what is trained."""
        own = [group.masked(mask_truncated=self.mask_truncated) for group in groups]
        with self._call_on(groups, random_key, "segmenter"):
            trees = [self.segmenter.segment(group.copy()) for group in own]
        check_trees(self.segmenter, groups, trees)
        return [tree.masked(group.mask) for group, tree in zip(own, trees, strict=True)]

    def score_groups(self, groups: Sequence[Group], random_key: RandomKey) -> ScoredGroups:
        """Groups with their process trees and rewards. A stop that is asked for abandons rewards that are awaited."""
        trees = self.segment(groups, random_key)
        with (
            allow_abandoning(self._trainer, random_key, "scoring"),
            self._call_on(groups, random_key, "reward_model"),
        ):
            rewards = share(self._trainer, lambda: self.reward_model.score_batch(groups, trees))
        return ScoredGroups(
            groups=tuple(groups),
            trees=tuple(trees),
            rewards=tuple(rewards),
            equal=tuple(not learns for learns in trained_groups(rewards, drop_equal=True)),
        )

    def assign_credit(
        self, index: int, scored: ScoredGroups, rewards: Sequence[Rewards], random_key: RandomKey
    ) -> Rollout:
        """The rollout of scored groups. Collective.

        Args:
            rewards: What credit is estimated from: those of ``scored``, or less a penalty. Records, and the choice of
                groups and completions that are trained on, take those of ``scored``.
        """
        groups, trees, estimator = scored.groups, scored.trees, self.advantage_estimator
        kept: tuple[tuple[int, ...], ...] = ()
        if (count := self.keep_per_group) is not None:
            kept = tuple(choose_varied(raw.outcome, count) for raw in scored.rewards)
            seen = [keep_members(r, t, k) for r, t, k in zip(rewards, trees, kept, strict=True)]
            rewards, trees = [r for r, _ in seen], tuple(t for _, t in seen)
        warn_of_unread(estimator, self.reward_model, rewards)
        with self._call_on(groups, random_key, "advantage_estimator"):
            credits = estimator.estimate_batch(rewards, trees, reduce=find_ranks(self._trainer).sum)
        check_credits(estimator, groups, credits)
        return Rollout(
            index=index,
            groups=groups,
            trees=trees,
            kept=kept,
            rewards=tuple(
                replace(raw, metrics=less.metrics) for raw, less in zip(scored.rewards, rewards, strict=True)
            ),
            credits=tuple(credits),
            trained=trained_groups(scored.rewards, drop_equal=self.drop_equal_groups),
            mask_truncated=self.mask_truncated,
        )

    def _call(self, random_key: RandomKey, *key: object) -> AbstractContextManager[None]:
        return isolate_call(random_key, *key, 0 if self._trainer is None else self._trainer.global_rank)

    def _call_on(self, groups: Sequence[Group], random_key: RandomKey, name: str) -> AbstractContextManager[None]:
        return self._call(random_key, name, *(group.prompt.uid for group in groups[:1]))
