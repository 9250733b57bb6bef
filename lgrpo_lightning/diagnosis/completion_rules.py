"""Rules about completions and groups."""

from __future__ import annotations

from lgrpo_lightning.diagnosis.window import Window

MANY_WRONG = 0.25
"""Share of groups all wrong from which low entropy is no success."""


def stuck(window: Window) -> bool:
    """The reward does not rise, as far as can be told, and most groups are not all right."""
    flat = window.full and window.change("reward") <= 0
    return flat and not window.mean("groups/all_right") >= 0.5


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


def unshared(window: Window, share: float) -> str | None:
    """λ-GRPO has nothing to weigh: completions share no beginnings."""
    shared = window.mean("tree/intermediate_proportion")
    if not (window.facts.weighs_sets and window.full and shared < share):
        return None
    return (
        f"completions share only {shared:.1%} of their tokens with another one of their group, so that λ-GRPO is GRPO "
        "here. Name steps by their text with model.segmenter: DelimiterSegmenter, take a larger group_size or a lower "
        "temperature, or say advantage_estimator: GRPO."
    )


def repeated(window: Window, share: float) -> str | None:
    """The data has the same prompts again and again."""
    if not window.facts.repeated >= share:
        return None
    return (
        f"{window.facts.repeated:.0%} of the prompts seen are in the data more than once: they count as often, and "
        "validation prompts may be among them. Remove duplicate rows from data.train."
    )
