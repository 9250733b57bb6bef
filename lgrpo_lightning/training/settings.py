"""Settings that do not fit together are refused before the first step, with what to do."""

from __future__ import annotations

import os
from typing import Any

from lgrpo_lightning.training.options import Updates
from lgrpo_lightning.types import Sampling

ELSEWHERE = {
    "gradient_clip_val": "model.updates.gradient_clip_val",
    "accumulate_grad_batches": "model.policy.micro_batch_tokens (micro-batches inside each optimizer step)",
}
"""Trainer options that manual optimisation cannot use → this library's."""


def run_seed() -> int:
    """The seed set by ``seed_everything``, else 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def check_options(group_size: int, sampling: Sampling, updates: Updates) -> None:
    """Refuse options with which GRPO cannot learn.

    Raises:
        ValueError: With what is possible.
    """
    if group_size < 2:
        raise ValueError(
            f"group_size is {group_size}; it must be at least 2: a completion is compared with the others of its group."
        )
    if sampling.temperature == 0:
        raise ValueError(
            "sampling.temperature is 0, so that all completions of a group would be the same; it must be above 0. "
            "Validation decodes greedily on its own (validation.greedy)."
        )
    if updates.old_logprobs == "sampler" and sampling.truncated:
        raise ValueError(
            "updates.old_logprobs is 'sampler', but top_p, top_k or min_p make the sampler's log-probs those of "
            "another distribution than the policy's. Use updates.old_logprobs: policy, or top_p 1, top_k 0, min_p 0."
        )


def check_trainer(trainer: Any) -> None:
    """Refuse Trainer options that this library replaces by its own.

    Raises:
        ValueError: Naming the option to use.
    """
    if trainer.gradient_clip_val:
        raise ValueError(f"trainer.gradient_clip_val is not used here; set {ELSEWHERE['gradient_clip_val']}.")
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"trainer.accumulate_grad_batches is not used here; set {ELSEWHERE['accumulate_grad_batches']}."
        )
