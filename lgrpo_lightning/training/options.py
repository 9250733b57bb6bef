"""Options of ``GRPOModule`` that belong together: the objective, the updates, the schedule, validation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lgrpo_lightning.errors import UserError, mapped, require
from lgrpo_lightning.functional.importance import ImportanceMode, check_importance
from lgrpo_lightning.functional.losses import KLEstimator
from lgrpo_lightning.policy.reference import ReferenceSync

KLPlace = Literal["loss", "reward"]
OnNonFinite = Literal["stop", "skip"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Penalties, bonuses and corrections, the same for every policy loss and every advantage estimator.

    Args:
        kl_coef: Weight of the KL penalty against the reference; 0 loads none.
        kl_estimator: "k1", "k2" or "k3" (GRPO): log π/π_ref, half its square, or the one that is never below 0.
        kl_place: Where the penalty stands: added to the "loss" of each token, or taken off the "reward" of the
            completion, summed over its tokens.
        kl_unbiased: Multiply the penalty in the loss by the ratio π/π_old, so that its gradient stays unbiased off
            the policy (DeepSeek-V3.2, arXiv:2512.02556).
        reference_sync_steps: Optimizer steps between updates of the reference (TR-DPO, arXiv:2404.09656); null: it
            stays the starting model.
        reference_sync_mix: Share of the policy that such an update mixes in; 1 replaces the reference.
        entropy_coef: Weight of the entropy bonus, the mean entropy per token; with ``entropy_target`` its start.
        entropy_target: Nats per token below which the bonus is given, and its weight rises from optimizer step to
            optimizer step; above it falls (Skywork-OR1, arXiv:2505.22312). Null: the weight stays.
        entropy_coef_delta: How much the weight rises or falls.
        entropy_coef_max: Its upper bound.
        top_entropy: Share of an optimizer step's tokens, those with the highest entropy before the update, that the
            policy loss trains (arXiv:2506.01939); 1 trains all.
        off_policy_kl: Completions with a negative advantage leave the policy loss where log μ/π (of the sampler and
            the policy, mean over its tokens) is above this (DeepSeek-V3.2); null: none do. With top_p, top_k or
            min_p, whose log-probs are those of another distribution, π_old stands for μ.
        router_aux_coef: Weight of the load-balancing loss of a mixture-of-experts model.
        importance: Correction of the surrogate for a sampler whose log-probs are not quite the policy's, such as
            another engine or dtype: the ratio of both per token or per sequence, truncated to the bounds or masked
            (set to 0) outside them. Not applied to ``TransformersSampler``, which is the policy itself, nor where
            top_p, top_k or min_p truncate: the ratio would measure that.
        importance_max: Upper bound of the ratio; null is unbounded.
        importance_min: Lower bound of the ratio; null is unbounded.
    """

    kl_coef: float = 0.0
    kl_estimator: KLEstimator = "k3"
    kl_place: KLPlace = "loss"
    kl_unbiased: bool = False
    reference_sync_steps: int | None = None
    reference_sync_mix: float = 0.6
    entropy_coef: float = 0.0
    entropy_target: float | None = None
    entropy_coef_delta: float = 0.005
    entropy_coef_max: float = 1.0
    top_entropy: float = 1.0
    off_policy_kl: float | None = None
    router_aux_coef: float = 0.0
    importance: ImportanceMode = "sequence_mask"
    importance_max: float | None = 3.0
    importance_min: float | None = None

    def __post_init__(self) -> None:
        most, least = self.importance_max, self.importance_min
        check_importance(self.importance, most, least)
        steps, target, far = self.reference_sync_steps, self.entropy_target, self.off_policy_kl
        require(
            "objective.",
            vars(self),
            (self.kl_coef >= 0, "kl_coef", "at least 0 (0: no reference model)"),
            (self.kl_estimator in get_args(KLEstimator), "kl_estimator", "'k1', 'k2' or 'k3'"),
            (self.kl_place in get_args(KLPlace), "kl_place", "'loss' or 'reward'"),
            (steps is None or steps >= 1, "reference_sync_steps", "at least 1, or null"),
            (0 < self.reference_sync_mix <= 1, "reference_sync_mix", "above 0 and at most 1"),
            (self.entropy_coef >= 0, "entropy_coef", "at least 0"),
            (target is None or target > 0, "entropy_target", "above 0, or null"),
            (self.entropy_coef_delta > 0, "entropy_coef_delta", "above 0"),
            (self.entropy_coef_max >= self.entropy_coef, "entropy_coef_max", "at least entropy_coef"),
            (0 < self.top_entropy <= 1, "top_entropy", "above 0 and at most 1"),
            (far is None or far >= 0, "off_policy_kl", "at least 0, or null"),
            (self.router_aux_coef >= 0, "router_aux_coef", "at least 0"),
            (most is None or most > 0, "importance_max", "above 0, or null"),
            (least is None or least >= 0, "importance_min", "at least 0, or null"),
        )
        if self.kl_coef == 0 and (self.kl_place == "reward" or self.kl_unbiased):
            raise UserError(
                "objective.kl_place and kl_unbiased are about the KL penalty; set objective.kl_coef above 0, such as "
                "0.04."
            )
        if self.kl_place == "reward" and (self.kl_unbiased or self.kl_estimator != "k1"):
            raise UserError(
                "objective.kl_place is 'reward', where the penalty is log π/π_ref of the sampled tokens: set "
                "objective.kl_estimator: k1 and kl_unbiased: false."
            )

    @property
    def reference_sync(self) -> ReferenceSync | None:
        """How the reference follows the policy; None: it does not."""
        steps = self.reference_sync_steps
        return None if steps is None else ReferenceSync(steps=steps, mix=self.reference_sync_mix)

    @property
    def kl_in_loss(self) -> bool:
        """Whether each token's loss has the penalty."""
        return self.kl_coef > 0 and self.kl_place == "loss"

    @property
    def kl_in_reward(self) -> bool:
        """Whether rewards have it."""
        return self.kl_coef > 0 and self.kl_place == "reward"

    @property
    def with_entropy(self) -> bool:
        """Whether there is an entropy bonus."""
        return self.entropy_coef > 0 or self.entropy_target is not None


@dataclass(frozen=True, kw_only=True)
class Updates:
    """How a rollout is turned into optimizer steps: ``iterations`` x ``mini_batches`` of them.

    Args:
        iterations: Passes over each rollout (μ in GRPO).
        mini_batches: Optimizer steps per pass, each on whole groups.
        gradient_clip_val: Largest norm of the gradient; None leaves it as it is.
        drop_equal_groups: Leave groups whose rewards are all equal out of the update and of the normaliser.
        refill_rounds: How often at most groups whose rewards are all equal are replaced by groups of further prompts
            (dynamic sampling of DAPO, arXiv:2503.14476).
        keep_per_group: Of each group, train only so many completions: those whose outcomes have the largest variance
            (PODS, arXiv:2504.13818); None: all.
        mask_truncated: Leave completions that were cut off (finish reason "length") out of the loss; their outcomes
            count in rewards and in the statistics of their group (overlong filtering of DAPO, arXiv:2503.14476).
        old_logprobs: π_old of the ratio: "policy" recomputes it with the policy, "sampler" takes the sampler's.
        gradient_snr: Log how much of each gradient is signal, from the spread over the passes of an optimizer step
            (``policy.micro_batch_tokens`` divides it); in one process, and with a copy of the gradient.
        on_nonfinite: Where the loss or gradient of an optimizer step is not finite: "stop" ends the run before the
            update, "skip" drops that step (neither optimizer nor schedule moves) and goes on.
        max_rollouts: Rollouts after which the run ends; -1 leaves the end to the Trainer.
        rollouts_ahead: Rollouts that are sampled and scored while earlier ones are trained on (k): rollout n is drawn
            with the weights after the update of rollout n - 1 - k. For samplers with an engine of their own.
        max_rollouts_without_step: Stop with the cause where so many rollouts in a row make no optimizer step.
    """

    iterations: int = 1
    mini_batches: int = 1
    gradient_clip_val: float | None = 1.0
    drop_equal_groups: bool = False
    refill_rounds: int = 0
    keep_per_group: int | None = None
    mask_truncated: bool = False
    old_logprobs: Literal["policy", "sampler"] = "policy"
    on_nonfinite: OnNonFinite = "stop"
    gradient_snr: bool = False
    max_rollouts: int = -1
    rollouts_ahead: int = 0
    max_rollouts_without_step: int = 50

    def __post_init__(self) -> None:
        limit, keep = self.gradient_clip_val, self.keep_per_group
        require(
            "updates.",
            vars(self),
            *((getattr(self, name) >= 1, name, "at least 1") for name in ("iterations", "mini_batches")),
            (self.max_rollouts_without_step >= 1, "max_rollouts_without_step", "at least 1"),
            (self.max_rollouts == -1 or self.max_rollouts >= 1, "max_rollouts", "at least 1, or -1 for no limit"),
            (self.rollouts_ahead >= 0, "rollouts_ahead", "at least 0 (0: none is drawn ahead)"),
            (self.refill_rounds >= 0, "refill_rounds", "at least 0 (0: no group is replaced)"),
            (keep is None or keep >= 2, "keep_per_group", "at least 2, or null for all"),
            (limit is None or 0 < limit < math.inf, "gradient_clip_val", "above 0, or null"),
        )

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps made from one rollout."""
        return self.iterations * self.mini_batches

    @property
    def steps_are_sure(self) -> bool:
        """Whether every rollout makes all of its optimizer steps, whatever its rewards."""
        return not (self.drop_equal_groups or self.mask_truncated or self.on_nonfinite == "skip")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over optimizer steps.

    Args:
        name: A schedule of transformers: "constant", "constant_with_warmup", "linear", "cosine", ...
        warmup_steps: Optimizer steps in which the rate rises from 0.
        total_steps: Steps until the end of a decaying schedule; None takes trainer.max_steps or updates.max_rollouts.
        kwargs: What the schedule takes beside these, such as ``min_lr_rate``.
    """

    name: str = "constant_with_warmup"
    warmup_steps: int = 0
    total_steps: int | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        total = self.total_steps
        mapped("schedule.kwargs", self.kwargs)
        require(
            "schedule.",
            vars(self),
            (self.warmup_steps >= 0, "warmup_steps", "at least 0"),
            (total is None or total >= 1, "total_steps", "at least 1, or null"),
        )


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What validation measures on every prompt.

    Args:
        k: Completions sampled per prompt for ``val/avg@k`` and ``val/pass@k``; 0 samples none.
        greedy: Whether to decode greedily for ``val/accuracy``; without it that is the mean over the samples.
        at_start: Validate before the first rollout.
        at_end: Validate after the last rollout.
        success_threshold: A completion is right where its outcome reward is at least this, but for rounding.
    """

    k: int = 4
    greedy: bool = True
    at_start: bool = True
    at_end: bool = True
    success_threshold: float = 1.0

    def __post_init__(self) -> None:
        if self.k < 0 or (self.k == 0 and not self.greedy):
            raise UserError("validation.k must be at least 0, and above 0 where validation.greedy is false.")
        require(
            "validation.",
            vars(self),
            (math.isfinite(self.success_threshold), "success_threshold", "a finite number"),
        )
