"""What can be wrong with a run, causes before what follows from them: the rules of ``Alarms`` and ``lgrpo doctor``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lgrpo_lightning.errors import UserError, mapped
from lgrpo_lightning.monitoring.window import Window

Says = Callable[[Window, float], str | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that can be wrong."""

    name: str  # that of its function, its threshold in ``Alarms``, and its heading in ``docs/doctor.md``
    title: str  # it in a few words
    threshold: float  # from where on, by default; what it means is up to ``says``
    says: Says  # what is wrong, with numbers, and what to change; None where it is not
    settings: tuple[str, ...] = ()  # keys of the configuration to change


RULES: list[Rule] = []


def rule(title: str, threshold: float, *settings: str) -> Callable[[Says], Says]:
    """Add the decorated function to ``RULES``."""

    def add(says: Says) -> Says:
        RULES.append(Rule(name=says.__name__, title=title, threshold=threshold, says=says, settings=settings))
        return says

    return add


LR = "model.optimizer.init_args.lr"
MANY_WRONG = 0.25
"""Share of groups all wrong from which low entropy is no success."""
SMALL_LOSS = 0.25
"""Of the deviation within groups: a fall in reward that is smaller may be chance."""
SLOW_REWARD, SLOW_SAMPLING = 1.0, 5.0
"""Seconds of a rollout below which nobody minds where they go."""


@rule("optimizer steps are dropped", 0.25, "trainer.precision", LR)
def nonfinite(window: Window, share: float) -> str | None:
    if not window.get_mean("updates/nonfinite") >= share:
        return None
    return (
        f"{window.get_mean('updates/nonfinite'):.0%} of the optimizer steps were dropped, as loss or gradient was not "
        "finite. Their batches are in nonfinite/; use trainer.precision: bf16-mixed or 32-true, or a lower rate."
    )


@rule("completions are not judged", 0.5, "model.reward_model")
def not_applicable(window: Window, share: float) -> str | None:
    if not window.get_last("rewards/not_applicable") >= share:
        return None
    return (
        f"no reward applies to {window.get_mean('rewards/not_applicable'):.0%} of the completions, so that they give "
        "no gradient. Look at rewards/<name>/errors and rewards/<name>/nan, and for whom the reward returns None."
    )


@rule("answers are not found", 0.9, "model.reward_model", "model.sampling.max_new_tokens")
def no_answer(window: Window, share: float) -> str | None:
    missing = {name: value for name, value in window.find_named("rewards/", "/no_answer").items() if value >= share}
    if not missing or not window.full:
        return None
    name, value = max(missing.items(), key=lambda item: item[1])
    cut = window.get_mean("completions/clipped_ratio")
    why = f" {cut:.0%} of the completions are cut off before their end." if cut >= 0.5 else ""
    return (
        f"{name} finds no answer in {value:.0%} of the completions.{why} Read some in rollouts/, and compare them with "
        "the reward's extract: write it as the model writes, or say in the prompt how to answer."
    )


@rule("sampler and trainer have drifted apart", 0.1, "model.sampler")
def drift(window: Window, limit: float) -> str | None:
    apart = window.get_last("sampling/sampling_logp_difference/mean")
    if not apart > limit:
        return None
    lag = window.get_mean("sampling/weight_lag")
    old = f" Its weights are {lag:.0f} optimizer steps old." if lag >= 1 else ""
    return (
        f"the sampler's log-probs are {apart:.2g} nats per token away from the policy's, above {limit:g}: completions "
        f"come from another policy than the one that is trained.{old} Set the engine's dtype to float32 or that of the "
        "policy, and look whether its weights are taken over at every sync."
    )


@rule("what was learnt is lost", 0.5, LR, "model.objective.kl_coef", "model.updates.gradient_clip_val")
def rate(window: Window, share: float) -> str | None:
    start, now = window.get_start("reward"), window.get_mean("reward")
    lost, gained = window.best - now, window.best - start
    scale = window.get_mean("reward_std") if window.get_mean("reward_std") > 0 else abs(window.best)
    matters = lost > 3 * window.get_error("reward") and lost > SMALL_LOSS * scale
    if not window.full or not (matters and lost > share * gained and window.compare_halves("reward") <= 0):
        return None
    return (
        f"the reward fell from {window.best:.2g}, its best over {window.n} rollouts, to {now:.2g} (it began at "
        f"{start:.2g}): the updates are too large. Go back to the checkpoint before, with a lower "
        "model.optimizer.init_args.lr, objective.kl_coef above 0, or updates.gradient_clip_val."
    )


@rule("updates are clipped away", 0.3, "model.updates.iterations", "model.updates.mini_batches", LR)
def clip_region(window: Window, share: float) -> str | None:
    cut = window.get_last("clip_ratio/region_mean")
    if not cut >= share:
        return None
    return (
        f"{cut:.0%} of the tokens have their gradient cut by clipping: the policy has moved too far before a rollout's "
        "last step. Take fewer updates.iterations or mini_batches, or a lower model.optimizer.init_args.lr."
    )


@rule("far from the starting model", 1.0, "model.objective.kl_coef", LR)
def kl(window: Window, limit: float) -> str | None:
    if not window.get_mean("kl") > limit:
        return None
    return (
        f"the KL divergence from the starting model is {window.get_mean('kl'):.2g} nats per token, above {limit:g}. "
        "Raise objective.kl_coef or lower the learning rate."
    )


@rule(
    "the policy has collapsed",
    0.02,
    LR,
    "model.loss.clip_high",
    "model.objective.kl_coef",
    "model.sampling.temperature",
)
def entropy(window: Window, floor: float) -> str | None:
    wrong = window.get_mean("groups/all_wrong")
    if not (window.get_last("entropy") < floor and wrong >= MANY_WRONG and is_stuck(window)):
        return None
    return (
        f"the entropy is below {floor:g} ({window.get_last('entropy'):.2g}) while the reward does not rise and "
        f"{wrong:.0%} of the groups are all wrong: the policy has collapsed. Go back to an earlier checkpoint with a "
        "lower learning rate, a larger loss.clip_high, objective.kl_coef above 0, or a higher sampling.temperature."
    )


@rule("completions are cut off", 0.5, "model.sampling.max_new_tokens")
def clipped(window: Window, share: float) -> str | None:
    if not (window.get_last("completions/clipped_ratio") >= share and is_stuck(window)):
        return None
    return (
        f"{window.get_mean('completions/clipped_ratio'):.0%} of the completions are cut off and the reward does not "
        "rise: raise sampling.max_new_tokens, or ask for shorter answers."
    )


@rule("length runs away", 3.0, "model.reward_model", "model.loss.normalizer")
def length(window: Window, factor: float) -> str | None:
    start, now = window.get_start("completions/mean_length"), window.get_mean("completions/mean_length")
    ratio = now / start
    gained = window.compare_with_start("reward") > 0 and window.compare_halves("reward") >= 0
    if not window.full or gained or not (ratio > factor or ratio < 1 / factor):
        return None
    how = "grown" if ratio > 1 else "shrunk"
    return (
        f"completions have {how} from {start:.0f} to {now:.0f} tokens without a gain in reward. Read some in "
        "rollouts/; look for a reward that pays for length, and at completions/clipped_ratio and loss.normalizer."
    )


@rule("one reward drowns another", 0.05, "model.reward_weights")
def drowned(window: Window, share: float) -> str | None:
    spreads = {
        name: value * abs(window.facts.reward_weights.get(name, 1.0))
        for name, value in window.find_named("rewards/", "/std").items()
    }
    spreads = {name: value for name, value in spreads.items() if value > 0}
    if len(spreads) < 2 or not window.full:
        return None
    loud, quiet = max(spreads, key=lambda n: spreads[n]), min(spreads, key=lambda n: spreads[n])
    if spreads[quiet] >= share * spreads[loud]:
        return None
    return (
        f"the reward {loud} varies {spreads[loud] / spreads[quiet]:.0f} times as much as {quiet} (standard deviations "
        f"times weights: {spreads[loud]:.2g} and {spreads[quiet]:.2g}), so that {quiet} decides nothing. Balance "
        "model.reward_weights."
    )


@rule("nothing to learn from", 0.95, "data.train", "model.group_size")
def dead_groups(window: Window, share: float) -> str | None:
    right, wrong = window.get_mean("groups/all_right"), window.get_mean("groups/all_wrong")
    if not (window.get_last("frac_reward_zero_std") >= share and right + wrong >= share / 2):
        return None
    what = f"{window.get_mean('frac_reward_zero_std'):.0%} of the groups have equal rewards and give no gradient: "
    if right >= 2 * wrong:
        return f"{what}all right ({right:.0%}). The task is solved: take harder prompts, or stop."
    if wrong >= 2 * right:
        return (
            f"{what}all wrong ({wrong:.0%}). Read some in rollouts/: if the reward reads them rightly, take easier "
            "prompts, a larger group_size, or a better starting model."
        )
    return f"{what}{right:.0%} all right, {wrong:.0%} all wrong. Take prompts of middling difficulty."


@rule("updates do nothing", 0.0, LR, "model.loss")
def gradient(window: Window, limit: float) -> str | None:
    living = window.get_last("frac_reward_zero_std") < 0.95 and window.get_last("rewards/not_applicable") < 0.5
    if not (window.get_last("grad_norm") <= limit and living):
        return None
    return (
        f"the gradient's norm is {window.get_last('grad_norm'):g} although the groups' rewards differ. Look at "
        "clip_ratio/… (is every token clipped?), at sampling/importance_sampling_ratio/mean (is every sequence "
        "masked?) and for weights that are not trained."
    )


@rule("the data repeats itself", 0.2, "data.train")
def repeated(window: Window, share: float) -> str | None:
    if not window.facts.repeated >= share:
        return None
    return (
        f"{window.facts.repeated:.0%} of the prompts seen are in the data more than once: they count as often, and "
        "validation prompts may be among them. Remove duplicate rows from data.train."
    )


@rule("λ-GRPO is GRPO here", 0.02, "model.segmenter", "model.group_size", "model.advantage_estimator")
def unshared(window: Window, share: float) -> str | None:
    shared = window.get_mean("tree/intermediate_proportion")
    if not (window.facts.weighs_sets and window.full and shared < share):
        return None
    return (
        f"completions share only {shared:.1%} of their tokens with another one of their group, so that λ-GRPO is GRPO "
        "here. Name steps by their text with model.segmenter: DelimiterSegmenter, take a larger group_size or a lower "
        "temperature, or say advantage_estimator: GRPO."
    )


@rule("the time goes into rewards", 0.5, "model.reward_model")
def reward_time(window: Window, share: float) -> str | None:
    step, part = window.get_mean("time/step"), _get_wait(window, "time/reward")
    if not (window.full and step >= SLOW_REWARD and part >= share * step):
        return None
    return (
        f"rewards take {part:.1f} of the {step:.1f} s of a rollout ({part / step:.0%}). Write the reward function "
        "async, or score whole batches (RewardModel.score_batch), so that calls run side by side."
    )


@rule("the time goes into sampling", 0.9, "model.sampler", "data.prompts_per_step")
def sampling_time(window: Window, share: float) -> str | None:
    step, part = window.get_mean("time/step"), _get_wait(window, "time/sample")
    if not (window.full and step >= SLOW_SAMPLING and part >= share * step):
        return None
    return (
        f"sampling takes {part:.1f} of the {step:.1f} s of a rollout ({part / step:.0%}). Sample with model.sampler: "
        "VLLMSampler, take more prompts_per_step at a time, or a smaller sampling.max_new_tokens."
    )


def is_stuck(window: Window) -> bool:
    """The reward does not rise, as far as can be told, and most groups are not all right."""
    flat = window.full and window.compare_halves("reward") <= 0
    return flat and not window.get_mean("groups/all_right") >= 0.5


def _get_wait(window: Window, stage: str) -> float:
    """Seconds of a stage for which the trainer had to wait: with rollouts ahead it runs beside the update."""
    idle = window.get_mean("time/trainer_idle")
    return window.get_mean(stage) if idle != idle else min(window.get_mean(stage), idle)


def complete_thresholds(given: Mapping[str, float | None] | None) -> dict[str, float]:
    """The threshold of every rule, by default where it is not given; without those that are given as null."""
    own = mapped("Alarms: thresholds", given or {})
    names = [rule.name for rule in RULES]
    for name, value in own.items():
        if name not in names:
            raise UserError(f"Alarms: thresholds has {name!r}; possible are {', '.join(names)}.")
        above = 1 if name == "length" else -math.inf
        if value is not None and not (isinstance(value, int | float) and value > above):
            what = "a number above 1" if name == "length" else "a number"
            raise UserError(f"Alarms: thresholds.{name} is {value!r}; it must be {what}, or null.")
    return {n: v for n, v in {**{rule.name: rule.threshold for rule in RULES}, **own}.items() if v is not None}
