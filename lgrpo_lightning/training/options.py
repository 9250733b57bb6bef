"""Options of ``GRPOModule`` that belong together: the loss, the updates, the schedule, validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lgrpo_lightning.functional.importance import ImportanceMode, check_importance
from lgrpo_lightning.functional.losses import Normalizer

OnNonFinite = Literal["stop", "skip"]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The objective, the same for every advantage estimator.

    Args:
        clip_low: How far the ratio π/π_old may fall below 1 before a token's gradient is cut.
        clip_high: How far it may rise above 1; larger than ``clip_low`` leaves more room to explore (DAPO).
        kl_coef: Weight of the KL penalty (k3) against the frozen reference; 0 loads no reference.
        normalizer: "token" divides by all tokens of the optimizer step (DAPO), "sequence" averages each
            completion first (GRPO), "constant" divides by completions x max_new_tokens (Dr.GRPO).
        importance: Correction of the surrogate for a sampler whose log-probs are not quite the policy's, such as
            another engine or dtype: the ratio of both per token or per sequence, truncated to the bounds or masked
            (set to 0) outside them. Not applied to ``TransformersSampler``, which is the policy itself, nor where
            top_p, top_k or min_p truncate: the ratio would measure that.
        importance_max: Upper bound of the ratio; null is unbounded.
        importance_min: Lower bound of the ratio; null is unbounded.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coef: float = 0.0
    normalizer: Normalizer = "token"
    importance: ImportanceMode = "sequence_mask"
    importance_max: float | None = 3.0
    importance_min: float | None = None

    def __post_init__(self) -> None:
        check_importance(self.importance, self.importance_max, self.importance_min)
        if not 0 <= self.clip_low <= 1 or self.clip_high < 0:
            raise ValueError(
                f"loss.clip_low is {self.clip_low} and loss.clip_high {self.clip_high}; "
                "clip_low must be in [0, 1] and clip_high at least 0."
            )
        if self.kl_coef < 0:
            raise ValueError(
                f"loss.kl_coef is {self.kl_coef}; it must be at least 0 (0: no reference model)."
            )


@dataclass(frozen=True, kw_only=True)
class Updates:
    """How a rollout is turned into optimizer steps: ``iterations`` x ``mini_batches`` of them.

    Args:
        iterations: Passes over each rollout (μ in GRPO).
        mini_batches: Optimizer steps per pass, each on whole groups.
        gradient_clip_val: Largest norm of the gradient; None leaves it as it is.
        drop_equal_groups: Leave groups whose rewards are all equal out of the update and of the normaliser.
        old_logprobs: π_old of the ratio: "policy" recomputes it with the policy, "sampler" takes the sampler's.
        on_nonfinite: Where the loss or gradient of an optimizer step is not finite: "stop" ends the run before the
            update, "skip" drops that step (neither optimizer nor schedule moves) and goes on.
    """

    iterations: int = 1
    mini_batches: int = 1
    gradient_clip_val: float | None = 1.0
    drop_equal_groups: bool = False
    old_logprobs: Literal["policy", "sampler"] = "policy"
    on_nonfinite: OnNonFinite = "stop"

    def __post_init__(self) -> None:
        for name in ("iterations", "mini_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"updates.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.gradient_clip_val is not None and self.gradient_clip_val <= 0:
            raise ValueError(
                f"updates.gradient_clip_val is {self.gradient_clip_val}; it must be above 0, or null."
            )

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps made from one rollout."""
        return self.iterations * self.mini_batches


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over optimizer steps.

    Args:
        name: A schedule of transformers: "constant", "constant_with_warmup", "linear", "cosine", ...
        warmup_steps: Optimizer steps in which the rate rises from 0.
        total_steps: Steps until the end of a decaying schedule; None takes trainer.max_steps or max_rollouts.
    """

    name: str = "constant_with_warmup"
    warmup_steps: int = 0
    total_steps: int | None = None

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"schedule.warmup_steps is {self.warmup_steps}; it must be at least 0.")


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What validation measures on every prompt.

    Args:
        k: Completions sampled per prompt for ``val/avg@k`` and ``val/pass@k``; 0 samples none.
        greedy: Whether to decode greedily for ``val/accuracy``; without it that is the mean over the samples.
        at_start: Validate before the first rollout.
        at_end: Validate after the last rollout.
        success_threshold: A completion is right where its outcome reward is at least this.
    """

    k: int = 4
    greedy: bool = True
    at_start: bool = True
    at_end: bool = True
    success_threshold: float = 1.0

    def __post_init__(self) -> None:
        if self.k < 0 or (self.k == 0 and not self.greedy):
            raise ValueError("validation.k must be at least 0, and above 0 where validation.greedy is false.")
