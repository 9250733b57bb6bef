"""Components and options that do not work together are refused before the first step, with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lgrpo_lightning.contracts import AdvantageEstimator, PolicyLoss, Sampler
from lgrpo_lightning.distributed.ranks import find_tensor_mesh
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.training.options import Objective, Updates


def check_together(
    loss: PolicyLoss, objective: Objective, updates: Updates, sampling: Sampling, components: Mapping[str, Any]
) -> None:
    """Make every check of this file that needs no Trainer.

    Args:
        components: The sampler, the estimator and the others, by name.

    Raises:
        ValueError: With what to do; so do all checks of this file.
    """
    estimator, sampler = components["advantage_estimator"], components["sampler"]
    check_weights(loss, estimator)
    check_correction(loss, objective, sampler, sampling)
    check_ahead(updates, sampling, components)
    name, looks = type(estimator).__name__, "outcome" in estimator.reads
    if objective.kl_in_reward and not (looks and estimator.takes_penalties):
        raise UserError(
            f"objective.kl_place is 'reward', and {name} does not look at completions' outcomes, or compares it with a "
            "threshold, so that a penalty is lost on it. Set objective.kl_place: loss."
        )
    if updates.keep_per_group is not None and not looks:
        raise UserError(
            f"updates.keep_per_group keeps completions whose outcomes differ, and {name} does not look at outcomes. "
            "Set updates.keep_per_group: null, or take an estimator such as BlendedGRPO."
        )
    if objective.reference_sync is not None and not reads_reference(objective, components):
        raise UserError(
            "objective.reference_sync_steps updates the reference, and nothing reads one; set objective.kl_coef above "
            "0, such as 0.04, or weights: reference in TeacherLogprobs."
        )


def reads_reference(objective: Objective, components: Mapping[str, Any]) -> bool:
    """Whether a run needs a reference: for the KL penalty, or for a reward that scores with it."""
    return objective.kl_coef > 0 or "reference" in (getattr(c, "scores_with", None) for c in components.values())


def check_weights(loss: PolicyLoss, estimator: AdvantageEstimator) -> None:
    """Refuse λ weights, which weigh tokens, beside a loss that has one term for a completion."""
    if loss.level == "sequence" and estimator.power > 0:
        name, who = type(loss).__name__, type(estimator).__name__
        token = "its token form (model.loss.init_args.token: true), " if hasattr(loss, "token") else ""
        raise UserError(
            f"model.loss is {name}, which has one ratio for all tokens of a completion, and {who} weighs tokens by "
            f"1/|λ|^{estimator.power:g}: such a loss has no tokens to weigh. Take {token}"
            "an estimator without λ weights (GRPO, or lambda_power: 0), or a token-level loss."
        )


def check_correction(loss: PolicyLoss, objective: Objective, sampler: Sampler, sampling: Sampling) -> None:
    """Refuse the correction of whole completions beside a loss that multiplies those of tokens itself."""
    mode = objective.importance
    applied = not (sampler.is_policy or sampling.truncated)
    if loss.corrects and applied and mode.startswith("sequence"):
        raise UserError(
            f"model.loss is {type(loss).__name__}, which multiplies the corrections of a completion's tokens, and "
            f"objective.importance is {mode!r}, one correction for all of them. Set objective.importance: "
            f"{mode.replace('sequence', 'token')}, or none."
        )


# ------------------------------------------------------------------------------------------ rollouts ahead


def check_ahead(updates: Updates, sampling: Sampling, components: Mapping[str, Any]) -> None:
    """Refuse components and options that do not work with rollouts ahead."""
    if updates.rollouts_ahead:
        _refuse_first(updates.rollouts_ahead, _find_obstacles(updates, sampling, components))


def check_ahead_in_run(count: int, trainer: Any) -> None:
    """Refuse a strategy and a data module that do not work with ``count`` rollouts ahead."""
    if count:
        _refuse_first(count, _find_obstacles_in_run(trainer))


def _refuse_first(count: int, obstacles: Iterator[str]) -> None:
    for obstacle in obstacles:
        raise UserError(f"updates.rollouts_ahead is {count}, {obstacle}, or updates.rollouts_ahead: 0.")


def _find_obstacles(updates: Updates, sampling: Sampling, components: Mapping[str, Any]) -> Iterator[str]:
    """What does not work with rollouts ahead, and what to do."""
    sampler = components["sampler"]
    if not sampler.apart:
        yield (
            f"but {_explain_not_apart(sampler)} Use VLLMSampler with server.urls, whose servers `lgrpo serve` starts"
        )
    while hasattr(sampler, "sampler"):
        sampler = sampler.sampler  # who draws in the end
    if getattr(sampler, "sleep_level", 0):
        yield (
            "and sampler.sleep_level frees the servers' memory between rollouts: there is no between. Use "
            "sleep_level: 0"
        )
    if sampling.truncated:
        yield (
            "and sampling.top_p, top_k or min_p truncate: completions come from older weights than the policy's, and "
            "the log-probs of a truncated distribution cannot correct for that. Use top_p 1, top_k 0 and min_p 0"
        )
    if updates.refill_rounds:
        yield (
            "and updates.refill_rounds draws further prompts once the rewards of a rollout are known, when the next "
            "ones are already being drawn. Use updates.refill_rounds: 0"
        )
    for name, component in components.items():
        if (own := getattr(component, "scores_with", None)) is not None:
            yield (
                f"and {component.name} scores with the run's own {own}, which is busy with the update meanwhile. Take "
                "a teacher with a path"
            )
        kind = name.partition("/")[0]
        if kind != "advantage_estimator" and hasattr(component, "state_dict"):
            yield (
                f"and {kind} {type(component).__name__} keeps a state in checkpoints (state_dict): which of the queued "
                "rollouts it has seen would depend on who is faster. Use one without a state"
            )


def _explain_not_apart(sampler: Any) -> str:
    """Why a sampler cannot draw beside the update."""
    name = type(sampler).__name__
    if hasattr(sampler, "sampler"):
        return f"{name} draws with " + _explain_not_apart(sampler.sampler)
    if sampler.is_policy:
        return f"{name} draws with the policy's own model, which is being trained meanwhile."
    if hasattr(sampler, "server"):
        return f"{name} has its engine in this process, which is busy with the update."
    return f"{name} does not say that it can draw while the policy is trained (Sampler.apart)."


def _find_obstacles_in_run(trainer: Any) -> Iterator[str]:
    """What of a Trainer does not work with rollouts ahead, and what to do."""
    data = trainer.datamodule
    if find_tensor_mesh(trainer.strategy) is not None:
        yield (
            "and under tensor_parallel_size above 1 ranks share what they sample and score while they train. Use "
            "tensor_parallel_size: 1"
        )
    if getattr(data, "curriculum", None) is not None:
        yield (
            "and data.curriculum draws the prompts of a rollout by the rewards of the one before, which is not known "
            "when it is drawn ahead. Use data.curriculum: null"
        )
    if not hasattr(data, "preview_prompts"):
        yield (
            f"and {type(data).__name__} has no preview_prompts(count), which tells the prompts of the next batches. "
            "Use PromptDataModule"
        )
