"""Rollouts ahead are refused where they cannot work, before the first step, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lgrpo_lightning.distributed.ranks import tensor_mesh
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.training.options import Updates
from lgrpo_lightning.types import Sampling

NOT_AHEAD = "or model.rollouts_ahead: 0"


def check_options(count: int, components: Mapping[str, Any], sampling: Sampling, updates: Updates) -> None:
    """Refuse components and options that do not go with rollouts ahead.

    Args:
        count: How many.
        components: The sampler and the others, by name.

    Raises:
        ValueError: With what to do.
    """
    if count < 0:
        raise UserError(f"model.rollouts_ahead is {count}; it must be at least 0 (0: none is drawn ahead).")
    if count == 0:
        return
    sampler = components["sampler"]
    if not sampler.apart:
        raise UserError(
            f"model.rollouts_ahead is {count}, but {_said(sampler)} Use VLLMSampler with server.urls, whose servers "
            f"`lgrpo serve` starts, {NOT_AHEAD}."
        )
    if getattr(_innermost(sampler), "sleep_level", 0):
        raise UserError(
            f"model.rollouts_ahead is {count}, and sampler.sleep_level frees the servers' memory between rollouts: "
            f"there is no between. Use sleep_level: 0, {NOT_AHEAD}."
        )
    if sampling.truncated:
        raise UserError(
            f"model.rollouts_ahead is {count}, and sampling.top_p, top_k or min_p truncate: completions come from "
            "older weights than the policy's, and the log-probs of a truncated distribution cannot correct for that. "
            f"Use top_p 1, top_k 0 and min_p 0, {NOT_AHEAD}."
        )
    if updates.refill_rounds:
        raise UserError(
            f"model.rollouts_ahead is {count}, and updates.refill_rounds draws further prompts once the rewards of a "
            f"rollout are known, when the next ones are already being drawn. Use updates.refill_rounds: 0, {NOT_AHEAD}."
        )
    _check_stateless(components)


def check_run(count: int, trainer: Any) -> None:
    """Refuse a strategy and a data module that do not go with rollouts ahead.

    Raises:
        ValueError: With what to do.
    """
    if count == 0:
        return
    if tensor_mesh(trainer.strategy) is not None:
        raise UserError(
            f"model.rollouts_ahead is {count}, and under tensor_parallel_size above 1 ranks share what they sample "
            f"and score while they train. Use tensor_parallel_size: 1, {NOT_AHEAD}."
        )
    if getattr(trainer.datamodule, "curriculum", None) is not None:
        raise UserError(
            f"model.rollouts_ahead is {count}, and data.curriculum draws the prompts of a rollout by the rewards of "
            f"the one before, which is not known when it is drawn ahead. Use data.curriculum: null, {NOT_AHEAD}."
        )
    if not hasattr(trainer.datamodule, "upcoming_prompts"):
        raise UserError(
            f"model.rollouts_ahead is {count}, and {type(trainer.datamodule).__name__} has no upcoming_prompts(count), "
            f"which tells the prompts of the next batches. Use PromptDataModule, {NOT_AHEAD}."
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
                f"model.rollouts_ahead is above 0, and {kind} {type(components[name]).__name__} keeps a state in "
                "checkpoints (state_dict): which of the queued rollouts it has seen would depend on who is faster. "
                f"Use one without a state, {NOT_AHEAD}."
            )
