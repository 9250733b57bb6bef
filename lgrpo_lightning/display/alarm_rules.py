"""What is wrong with a run, read off its metrics: each rule gives the cause and what to change, or None."""

from __future__ import annotations

from collections.abc import Callable

from lgrpo_lightning.display.rollout_window import Window

Rule = Callable[[Window, float], str | None]

WATCHED = (
    "reward",
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
)
"""The metrics that the rules read."""
MANY_WRONG = 0.25
"""Share of groups all wrong from which low entropy is no success."""


def stuck(window: Window) -> bool:
    """The reward does not rise, as far as can be told, and most groups are not all right."""
    flat = window.full and window.change("reward") <= 0
    return flat and not window.mean("groups/all_right") >= 0.5


def entropy(window: Window, floor: float) -> str | None:
    """Variety is lost before the task is solved: groups agree on what is wrong, and the reward does not rise."""
    wrong = window.mean("groups/all_wrong")
    if not (window.now("entropy") < floor and wrong >= MANY_WRONG and stuck(window)):
        return None
    return (
        f"the entropy is below {floor:g} ({window.now('entropy'):.2g}) while the reward does not rise and "
        f"{wrong:.0%} of the groups are all wrong: the policy has collapsed. Go back to an earlier checkpoint with a "
        "lower learning rate, a larger loss.clip_high, loss.kl_coef above 0, or a higher sampling.temperature."
    )


def kl(window: Window, limit: float) -> str | None:
    """The policy is far from where it started."""
    if not window.mean("kl") > limit:
        return None
    return (
        f"the KL divergence from the starting model is {window.mean('kl'):.2g} nats per token, above {limit:g}. "
        "Raise loss.kl_coef or lower the learning rate."
    )


def length(window: Window, factor: float) -> str | None:
    """Completions became much longer or shorter than at the start, and while the reward does not rise."""
    ratio = window.mean("completions/mean_length") / window.start("completions/mean_length")
    gained = window.since_start("reward") > 0 and window.change("reward") >= 0
    if not window.full or gained or not (ratio > factor or ratio < 1 / factor):
        return None
    how = "grown" if ratio > 1 else "shrunk"
    return (
        f"completions have {how} from {window.start('completions/mean_length'):.0f} to "
        f"{window.mean('completions/mean_length'):.0f} tokens without a gain in reward. Read some in rollouts/; look "
        "for a reward that pays for length, and at completions/clipped_ratio and loss.normalizer."
    )


def clipped(window: Window, share: float) -> str | None:
    """Completions are cut off before they come to an answer."""
    if not (window.now("completions/clipped_ratio") >= share and stuck(window)):
        return None
    return (
        f"{window.mean('completions/clipped_ratio'):.0%} of the completions are cut off and the reward does not rise: "
        "raise sampling.max_new_tokens, or ask for shorter answers."
    )


def dead_groups(window: Window, share: float) -> str | None:
    """Nearly no group has anything to learn from."""
    right, wrong = window.mean("groups/all_right"), window.mean("groups/all_wrong")
    if not (window.now("frac_reward_zero_std") >= share and right + wrong >= share / 2):
        return None
    what = (
        f"{window.mean('frac_reward_zero_std'):.0%} of the groups have equal rewards and give no gradient: "
    )
    if right >= 2 * wrong:
        return f"{what}all right ({right:.0%}). The task is solved: take harder prompts, or stop."
    if wrong >= 2 * right:
        return (
            f"{what}all wrong ({wrong:.0%}). Read some in rollouts/: if the reward reads them rightly, take easier "
            "prompts, a larger group_size, or a better starting model."
        )
    return f"{what}{right:.0%} all right, {wrong:.0%} all wrong. Take prompts of middling difficulty."


def not_applicable(window: Window, share: float) -> str | None:
    """Most completions are not judged."""
    if not window.now("rewards/not_applicable") >= share:
        return None
    return (
        f"no reward applies to {window.mean('rewards/not_applicable'):.0%} of the completions, so that they give "
        "no gradient. Look at rewards/<name>/errors and rewards/<name>/nan, and for whom the reward returns None."
    )


def gradient(window: Window, limit: float) -> str | None:
    """Updates do nothing, though there are groups to learn from."""
    living = window.now("frac_reward_zero_std") < 0.95 and window.now("rewards/not_applicable") < 0.5
    if not (window.now("grad_norm") <= limit and living):
        return None
    return (
        f"the gradient's norm is {window.now('grad_norm'):g} although the groups' rewards differ. Look at clip_ratio/… "
        "(is every token clipped?), at sampling/importance_sampling_ratio/mean (is every sequence masked?) and for "
        "weights that are not trained."
    )


def nonfinite(window: Window, share: float) -> str | None:
    """Many optimizer steps are dropped."""
    if not window.mean("updates/nonfinite") >= share:
        return None
    return (
        f"{window.mean('updates/nonfinite'):.0%} of the optimizer steps were dropped, as loss or gradient was not "
        "finite. Their batches are in nonfinite/; use trainer.precision: bf16-mixed or 32-true, or a lower rate."
    )


RULES: dict[str, Rule] = {
    "entropy": entropy,
    "kl": kl,
    "length": length,
    "clipped": clipped,
    "dead_groups": dead_groups,
    "not_applicable": not_applicable,
    "gradient": gradient,
    "nonfinite": nonfinite,
}
"""Option of ``Alarms`` → its rule."""
