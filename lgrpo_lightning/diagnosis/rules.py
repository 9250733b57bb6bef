"""The list of what can be wrong with a run: causes before what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lgrpo_lightning.diagnosis import completion_rules, policy_rules, reward_rules
from lgrpo_lightning.diagnosis.window import Window


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that can be wrong.

    Attributes:
        name: The option of ``Alarms``, and the heading in ``docs/doctor.md``.
        title: It in a few words.
        threshold: From where on; what it means is up to ``says``.
        says: What is wrong, with numbers, and what to change; None where it is not.
        settings: Keys of the configuration to change.
    """

    name: str
    title: str
    threshold: float
    says: Callable[[Window, float], str | None]
    settings: tuple[str, ...] = ()


LR = "model.optimizer.init_args.lr"

RULES: tuple[Rule, ...] = (
    Rule(
        name="nonfinite",
        title="optimizer steps are dropped",
        threshold=0.25,
        says=policy_rules.nonfinite,
        settings=("trainer.precision", LR),
    ),
    Rule(
        name="not_applicable",
        title="completions are not judged",
        threshold=0.5,
        says=reward_rules.not_applicable,
        settings=("model.reward_model",),
    ),
    Rule(
        name="no_answer",
        title="answers are not found",
        threshold=0.9,
        says=reward_rules.no_answer,
        settings=("model.reward_model", "model.sampling.max_new_tokens"),
    ),
    Rule(
        name="drift",
        title="sampler and trainer have drifted apart",
        threshold=0.1,
        says=policy_rules.drift,
        settings=("model.sampler",),
    ),
    Rule(
        name="rate",
        title="what was learnt is lost",
        threshold=0.5,
        says=policy_rules.rate,
        settings=(LR, "model.objective.kl_coef", "model.updates.gradient_clip_val"),
    ),
    Rule(
        name="clip_region",
        title="updates are clipped away",
        threshold=0.3,
        says=policy_rules.clip_region,
        settings=("model.updates.iterations", "model.updates.mini_batches", LR),
    ),
    Rule(
        name="kl",
        title="far from the starting model",
        threshold=1.0,
        says=policy_rules.kl,
        settings=("model.objective.kl_coef", LR),
    ),
    Rule(
        name="entropy",
        title="the policy has collapsed",
        threshold=0.02,
        says=policy_rules.entropy,
        settings=(LR, "model.loss.clip_high", "model.objective.kl_coef", "model.sampling.temperature"),
    ),
    Rule(
        name="clipped",
        title="completions are cut off",
        threshold=0.5,
        says=completion_rules.clipped,
        settings=("model.sampling.max_new_tokens",),
    ),
    Rule(
        name="length",
        title="length runs away",
        threshold=3.0,
        says=completion_rules.length,
        settings=("model.reward_model", "model.loss.normalizer"),
    ),
    Rule(
        name="drowned",
        title="one reward drowns another",
        threshold=0.05,
        says=reward_rules.drowned,
        settings=("model.reward_weights",),
    ),
    Rule(
        name="dead_groups",
        title="nothing to learn from",
        threshold=0.95,
        says=completion_rules.dead_groups,
        settings=("data.train", "model.group_size"),
    ),
    Rule(
        name="gradient",
        title="updates do nothing",
        threshold=0.0,
        says=policy_rules.gradient,
        settings=(LR, "model.loss"),
    ),
    Rule(
        name="repeated",
        title="the data repeats itself",
        threshold=0.2,
        says=completion_rules.repeated,
        settings=("data.train",),
    ),
    Rule(
        name="unshared",
        title="λ-GRPO is GRPO here",
        threshold=0.02,
        says=completion_rules.unshared,
        settings=("model.segmenter", "model.group_size", "model.advantage_estimator"),
    ),
    Rule(
        name="reward_time",
        title="the time goes into rewards",
        threshold=0.5,
        says=reward_rules.reward_time,
        settings=("model.reward_model",),
    ),
    Rule(
        name="sampling_time",
        title="the time goes into sampling",
        threshold=0.9,
        says=reward_rules.sampling_time,
        settings=("model.sampler", "data.prompts_per_step"),
    ),
)

WATCHED = (
    "reward",
    "reward_std",
    "entropy",
    "kl",
    "completions/mean_length",
    "completions/clipped_ratio",
    "frac_reward_zero_std",
    "groups/all_right",
    "groups/all_wrong",
    "rewards/not_applicable",
    "grad_norm",
    "updates/nonfinite",
    "clip_ratio/region_mean",
    "sampling/sampling_logp_difference/mean",
    "sampling/weight_lag",
    "tree/intermediate_proportion",
    "time/step",
    "time/sample",
    "time/reward",
    "time/trainer_idle",
)
"""The metrics that the rules read, beside those of single rewards."""


def watched(name: str) -> bool:
    """Whether a rule reads the metric."""
    return name in WATCHED or (name.startswith("rewards/") and name.endswith(("/std", "/no_answer")))
