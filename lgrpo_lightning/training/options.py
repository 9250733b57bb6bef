"""Options of ``GRPOModule`` that belong together: the updates, the schedule, validation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from lgrpo_lightning.errors import UserError, mapped, require

OnNonFinite = Literal["stop", "skip"]


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
