"""Rules about the policy and its updates."""

from __future__ import annotations

from lgrpo_lightning.diagnosis.completion_rules import MANY_WRONG, stuck
from lgrpo_lightning.diagnosis.window import Window

SMALL_LOSS = 0.25
"""Of the deviation within groups: a fall in reward that is smaller may be chance."""


def entropy(window: Window, floor: float) -> str | None:
    """Variety is lost before the task is solved: groups agree on what is wrong, and the reward does not rise."""
    wrong = window.mean("groups/all_wrong")
    if not (window.now("entropy") < floor and wrong >= MANY_WRONG and stuck(window)):
        return None
    return (
        f"the entropy is below {floor:g} ({window.now('entropy'):.2g}) while the reward does not rise and "
        f"{wrong:.0%} of the groups are all wrong: the policy has collapsed. Go back to an earlier checkpoint with a "
        "lower learning rate, a larger loss.clip_high, objective.kl_coef above 0, or a higher sampling.temperature."
    )


def kl(window: Window, limit: float) -> str | None:
    """The policy is far from where it started."""
    if not window.mean("kl") > limit:
        return None
    return (
        f"the KL divergence from the starting model is {window.mean('kl'):.2g} nats per token, above {limit:g}. "
        "Raise objective.kl_coef or lower the learning rate."
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


def rate(window: Window, share: float) -> str | None:
    """What was learnt is lost again."""
    start, now = window.start("reward"), window.mean("reward")
    lost, gained = window.best - now, window.best - start
    scale = window.mean("reward_std") if window.mean("reward_std") > 0 else abs(window.best)
    matters = lost > 3 * window.spread("reward") and lost > SMALL_LOSS * scale
    if not window.full or not (matters and lost > share * gained and window.change("reward") <= 0):
        return None
    return (
        f"the reward fell from {window.best:.2g}, its best over {window.n} rollouts, to {now:.2g} (it began at "
        f"{start:.2g}): the updates are too large. Go back to the checkpoint before, with a lower "
        "model.optimizer.init_args.lr, objective.kl_coef above 0, or updates.gradient_clip_val."
    )


def clip_region(window: Window, share: float) -> str | None:
    """Most of an update is cut off by the clipping of the ratio."""
    cut = window.now("clip_ratio/region_mean")
    if not cut >= share:
        return None
    return (
        f"{cut:.0%} of the tokens have their gradient cut by clipping: the policy has moved too far before a rollout's "
        "last step. Take fewer updates.iterations or mini_batches, or a lower model.optimizer.init_args.lr."
    )


def drift(window: Window, limit: float) -> str | None:
    """Sampler and trainer do not agree on the probability of what was sampled."""
    apart = window.now("sampling/sampling_logp_difference/mean")
    if not apart > limit:
        return None
    lag = window.mean("sampling/weight_lag")
    old = f" Its weights are {lag:.0f} optimizer steps old." if lag >= 1 else ""
    return (
        f"the sampler's log-probs are {apart:.2g} nats per token away from the policy's, above {limit:g}: completions "
        f"come from another policy than the one that is trained.{old} Set the engine's dtype to float32 or that of the "
        "policy, and look whether its weights are taken over at every sync."
    )
