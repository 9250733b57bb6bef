"""Components and options that do not work together are refused before the first step, with what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lgrpo_lightning.contracts import AdvantageEstimator, PolicyLoss, Sampler
from lgrpo_lightning.distributed.ranks import find_tensor_mesh
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.training.options import Objective, Updates
from lgrpo_lightning.types import Sampling

NOT_AHEAD = "or updates.rollouts_ahead: 0"


def check_together(
    loss: PolicyLoss,
    objective: Objective,
    updates: Updates,
    sampling: Sampling,
    components: Mapping[str, Any],
) -> None:
    """Make every check of this file that needs no Trainer.

    Args:
        components: The sampler, the estimator and the others, by name.

    Raises:
        ValueError: With what to do.
    """
    estimator, sampler = components["advantage_estimator"], components["sampler"]
    check_weights(loss, estimator)
    check_penalty(objective, estimator)
    check_kept(updates, estimator)
    check_correction(loss, objective, sampler, sampling)
    check_ahead(updates, sampling, components)
    if objective.reference_sync is not None and not reads_reference(objective, components):
        raise UserError(
            "objective.reference_sync_steps updates the reference, and nothing reads one; set objective.kl_coef above "
            "0, such as 0.04, or weights: reference in TeacherLogprobs."
        )


def reads_reference(objective: Objective, components: Mapping[str, Any]) -> bool:
    """Whether a run needs a reference: for the KL penalty, or for a reward that scores with it."""
    return objective.kl_coef > 0 or "reference" in (getattr(c, "scores_with", None) for c in components.values())


def check_weights(loss: PolicyLoss, estimator: AdvantageEstimator) -> None:
    """Refuse λ weights, which weigh tokens, beside a loss that has one term for a completion.

    Raises:
        ValueError: With what to do.
    """
    if loss.level == "sequence" and estimator.power > 0:
        name, who = type(loss).__name__, type(estimator).__name__
        token = "its token form (model.loss.init_args.token: true), " if hasattr(loss, "token") else ""
        raise UserError(
            f"model.loss is {name}, which has one ratio for all tokens of a completion, and {who} weighs tokens by "
            f"1/|λ|^{estimator.power:g}: such a loss has no tokens to weigh. Take {token}"
            "an estimator without λ weights (GRPO, or lambda_power: 0), or a token-level loss."
        )


def check_penalty(objective: Objective, estimator: AdvantageEstimator) -> None:
    """Refuse a KL penalty in the reward beside an estimator that does not look at it, or takes it for something else.

    Raises:
        ValueError: With what to do.
    """
    if objective.kl_in_reward and not ("outcome" in estimator.reads and estimator.takes_penalties):
        raise UserError(
            f"objective.kl_place is 'reward', and {type(estimator).__name__} does not look at completions' outcomes, "
            "or compares it with a threshold, so that a penalty is lost on it. Set objective.kl_place: loss."
        )


def check_kept(updates: Updates, estimator: AdvantageEstimator) -> None:
    """Refuse a choice of completions by their outcomes beside an estimator that does not look at them.

    Raises:
        ValueError: With what to do.
    """
    if updates.keep_per_group is not None and "outcome" not in estimator.reads:
        raise UserError(
            f"updates.keep_per_group keeps completions whose outcomes differ, and {type(estimator).__name__} does not "
            "look at outcomes. Set updates.keep_per_group: null, or take an estimator such as BlendedGRPO."
        )


def check_correction(loss: PolicyLoss, objective: Objective, sampler: Sampler, sampling: Sampling) -> None:
    """Refuse the correction of whole completions beside a loss that multiplies those of tokens itself.

    Raises:
        ValueError: With what to do.
    """
    mode = objective.importance
    applied = not (sampler.is_policy or sampling.truncated)
    if loss.corrects and applied and mode.startswith("sequence"):
        raise UserError(
            f"model.loss is {type(loss).__name__}, which multiplies the corrections of a completion's tokens, and "
            f"objective.importance is {mode!r}, one correction for all of them. Set objective.importance: "
            f"{mode.replace('sequence', 'token')}, or none."
        )


def check_ahead(updates: Updates, sampling: Sampling, components: Mapping[str, Any]) -> None:
    """Refuse components and options that do not work with rollouts ahead.

    Args:
        components: The sampler and the others, by name.

    Raises:
        ValueError: With what to do.
    """
    if (count := updates.rollouts_ahead) == 0:
        return
    sampler = components["sampler"]
    if not sampler.apart:
        raise UserError(
            f"updates.rollouts_ahead is {count}, but {_said(sampler)} Use VLLMSampler with server.urls, whose servers "
            f"`lgrpo serve` starts, {NOT_AHEAD}."
        )
    if getattr(_innermost(sampler), "sleep_level", 0):
        raise UserError(
            f"updates.rollouts_ahead is {count}, and sampler.sleep_level frees the servers' memory between rollouts: "
            f"there is no between. Use sleep_level: 0, {NOT_AHEAD}."
        )
    if sampling.truncated:
        raise UserError(
            f"updates.rollouts_ahead is {count}, and sampling.top_p, top_k or min_p truncate: completions come from "
            "older weights than the policy's, and the log-probs of a truncated distribution cannot correct for that. "
            f"Use top_p 1, top_k 0 and min_p 0, {NOT_AHEAD}."
        )
    if updates.refill_rounds:
        raise UserError(
            f"updates.rollouts_ahead is {count}, and updates.refill_rounds draws further prompts once the rewards of a "
            f"rollout are known, when the next ones are already being drawn. Use updates.refill_rounds: 0, {NOT_AHEAD}."
        )
    for component in components.values():
        if (own := getattr(component, "scores_with", None)) is not None:
            raise UserError(
                f"updates.rollouts_ahead is {count}, and {component.name} scores with the run's own {own}, which is "
                f"busy with the update meanwhile. Take a teacher with a path, {NOT_AHEAD}."
            )
    _check_stateless(components)


def check_ahead_in_run(count: int, trainer: Any) -> None:
    """Refuse a strategy and a data module that do not work with ``count`` rollouts ahead.

    Raises:
        ValueError: With what to do.
    """
    if count == 0:
        return
    if find_tensor_mesh(trainer.strategy) is not None:
        raise UserError(
            f"updates.rollouts_ahead is {count}, and under tensor_parallel_size above 1 ranks share what they sample "
            f"and score while they train. Use tensor_parallel_size: 1, {NOT_AHEAD}."
        )
    if getattr(trainer.datamodule, "curriculum", None) is not None:
        raise UserError(
            f"updates.rollouts_ahead is {count}, and data.curriculum draws the prompts of a rollout by the rewards of "
            f"the one before, which is not known when it is drawn ahead. Use data.curriculum: null, {NOT_AHEAD}."
        )
    if not hasattr(trainer.datamodule, "preview_prompts"):
        raise UserError(
            f"updates.rollouts_ahead is {count}, and {type(trainer.datamodule).__name__} has no "
            f"preview_prompts(count), which tells the prompts of the next batches. Use PromptDataModule, {NOT_AHEAD}."
        )


def _said(sampler: Any) -> str:
    """Why a sampler cannot draw beside the update."""
    name = type(sampler).__name__
    if hasattr(sampler, "sampler"):
        return f"{name} draws with " + _said(sampler.sampler)
    if sampler.is_policy:
        return f"{name} draws with the policy's own model, which is being trained meanwhile."
    if hasattr(sampler, "server"):
        return f"{name} has its engine in this process, which is busy with the update."
    return f"{name} does not say that it can draw while the policy is trained (Sampler.apart)."


def _innermost(sampler: Any) -> Any:
    """Who draws in the end."""
    return _innermost(sampler.sampler) if hasattr(sampler, "sampler") else sampler


def _check_stateless(components: Mapping[str, Any]) -> None:
    """Refuse components that keep a state while they draw and score: a checkpoint cannot tell what they have seen."""
    for name in components:
        kind = name.partition("/")[0]
        if kind in ("sampler", "segmenter", "reward_model") and hasattr(components[name], "state_dict"):
            raise UserError(
                f"updates.rollouts_ahead is above 0, and {kind} {type(components[name]).__name__} keeps a state in "
                "checkpoints (state_dict): which of the queued rollouts it has seen would depend on who is faster. "
                f"Use one without a state, {NOT_AHEAD}."
            )
