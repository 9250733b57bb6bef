"""Rules about rewards, data and where the time goes."""

from __future__ import annotations

from lgrpo_lightning.diagnosis.window import Window

SLOW_REWARD, SLOW_SAMPLING = 1.0, 5.0
"""Seconds of a rollout below which nobody minds where they go."""


def not_applicable(window: Window, share: float) -> str | None:
    """Most completions are not judged."""
    if not window.now("rewards/not_applicable") >= share:
        return None
    return (
        f"no reward applies to {window.mean('rewards/not_applicable'):.0%} of the completions, so that they give "
        "no gradient. Look at rewards/<name>/errors and rewards/<name>/nan, and for whom the reward returns None."
    )


def no_answer(window: Window, share: float) -> str | None:
    """A reward finds no answer in what it reads."""
    missing = {
        name: value for name, value in window.named("rewards/", "/no_answer").items() if value >= share
    }
    if not missing or not window.full:
        return None
    name, value = max(missing.items(), key=lambda item: item[1])
    cut = window.mean("completions/clipped_ratio")
    why = f" {cut:.0%} of the completions are cut off before their end." if cut >= 0.5 else ""
    return (
        f"{name} finds no answer in {value:.0%} of the completions.{why} Read some in rollouts/, and compare them with "
        "the reward's extract: write it as the model writes, or say in the prompt how to answer."
    )


def drowned(window: Window, share: float) -> str | None:
    """Of several rewards one decides alone."""
    spreads = {
        name: value * abs(window.facts.reward_weights.get(name, 1.0))
        for name, value in window.named("rewards/", "/std").items()
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


def reward_time(window: Window, share: float) -> str | None:
    """Rewards take most of the time of slow steps."""
    step, part = window.mean("time/step"), _waited_for(window, "time/reward")
    if not (window.full and step >= SLOW_REWARD and part >= share * step):
        return None
    return (
        f"rewards take {part:.1f} of the {step:.1f} s of a rollout ({part / step:.0%}). Write the reward function "
        "async, or score whole batches (RewardModel.score_batch), so that calls run side by side."
    )


def sampling_time(window: Window, share: float) -> str | None:
    """Sampling takes nearly all of the time of slow steps."""
    step, part = window.mean("time/step"), _waited_for(window, "time/sample")
    if not (window.full and step >= SLOW_SAMPLING and part >= share * step):
        return None
    return (
        f"sampling takes {part:.1f} of the {step:.1f} s of a rollout ({part / step:.0%}). Sample with model.sampler: "
        "VLLMSampler, take more prompts_per_step at a time, or a smaller sampling.max_new_tokens."
    )


def _waited_for(window: Window, stage: str) -> float:
    """Seconds of a stage for which the trainer had to wait: with rollouts ahead it runs beside the update."""
    idle = window.mean("time/trainer_idle")
    return window.mean(stage) if idle != idle else min(window.mean(stage), idle)
