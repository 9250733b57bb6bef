"""Checks of what a reward model returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lgrpo_lightning.contracts import RewardModel
from lgrpo_lightning.errors import UserError, check_metrics
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Group, Rewards


class RewardError(UserError):
    """A reward could not be computed or violates the contract; the message names it and the place."""


def check_rewards(
    model: RewardModel, groups: Sequence[Group], trees: Sequence[ProcessTree], rewards: Sequence[Rewards]
) -> list[Rewards]:
    """``rewards`` as fp32 on the CPU, after a check of their number, shapes and values.

    Raises:
        RewardError: Naming the model and the first prompt with a wrong answer.
    """
    if len(rewards) != len(groups):
        raise RewardError(
            f"Reward model {model.name!r} returned {len(rewards)} results for {len(groups)} groups; "
            "score_batch returns one Rewards per group, in order."
        )
    return [_check(model, g, t, r) for g, t, r in zip(groups, trees, rewards, strict=True)]


def _check(model: RewardModel, group: Group, tree: ProcessTree, rewards: Rewards) -> Rewards:
    where = f"Reward model {model.name!r}, prompt {group.prompt.uid!r}"
    if not isinstance(rewards, Rewards):
        raise RewardError(f"{where}: got {type(rewards).__name__}; score_batch returns a list of Rewards.")
    if text := sorted(name for name, v in rewards.extras.items() if isinstance(v, str | bytes)):
        raise RewardError(
            f"{where}: extras {', '.join(text)} are a string; they have one value per completion, in a list."
        )
    short = {name: len(v) for name, v in rewards.extras.items() if len(v) != len(group)}
    if short:
        raise RewardError(f"{where}: extras have {len(group)} values, one per completion; got {short}.")
    check_metrics(model.name, rewards.metrics)
    steps, tokens, each = rewards.steps, rewards.tokens, "one reward per completion"
    if steps is not None:
        steps = _check_tensor(steps, [len(tree.steps)], f"{where}: steps", "one per process step")
    if tokens is not None:
        wanted = [*tree.set_sizes().shape]
        tokens = _check_tensor(tokens, wanted, f"{where}: tokens", "one reward per token, NaN for none")
    return replace(
        rewards,
        outcome=_check_tensor(rewards.outcome, [len(group)], f"{where}: outcome", each),
        steps=steps,
        tokens=tokens,
        parts={
            name: _check_tensor(part, [len(group)], f"{where}: part {name!r}", each)
            for name, part in rewards.parts.items()
        },
    )


def _check_tensor(value: Tensor, shape: list[int], what: str, meaning: str) -> Tensor:
    """``value`` as fp32 on the CPU; refused where it has another shape than ``shape``, or is infinite."""
    if not isinstance(value, Tensor):
        raise RewardError(f"{what} is a {type(value).__name__}; it must be a tensor of shape {shape}, {meaning}.")
    if [*value.shape] != shape:
        raise RewardError(f"{what} has shape {[*value.shape]}; it must be {shape}, {meaning}.")
    value = value.detach().to("cpu", torch.float32)
    if value.isinf().any():
        raise RewardError(
            f"{what} is {value.tolist()}; rewards are finite. Use NaN (None in a reward function) for 'does not apply'."
        )
    return value
