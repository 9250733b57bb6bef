"""What samplers, segmenters and estimators answer keeps their contract, or the run stops before the update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch import Tensor

from lgrpo_lightning.contracts import AdvantageEstimator, StepSegmenter
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards.weighted_sum import RewardSum
from lgrpo_lightning.types import Credit, Group, Rewards


class ContractError(UserError):
    """A component answered something that its contract does not allow; names it and the first such prompt."""


def check_trees(segmenter: StepSegmenter, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> None:
    """Refuse trees that do not cover the tokens of their group."""
    for group, tree in zip(groups, trees, strict=True):
        where = f"Segmenter {type(segmenter).__name__!r}, prompt {group.prompt.uid!r}"
        if not isinstance(tree, ProcessTree):
            raise ContractError(f"{where}: got a {type(tree).__name__}; segment returns a ProcessTree.")
        real = _real(group)
        for name, value, padding in (("set_sizes", tree.set_sizes(), 0), ("step_ids", tree.step_ids, -1)):
            _check_shape(value, group, f"{where}: {name} of the tree")
            if not torch.equal(value > padding, real.to(value.device)):
                raise ContractError(f"{where}: {name} of the tree must be {padding} on padding and only there.")
        if bool((tree.set_sizes() > len(group)).any()):
            raise ContractError(f"{where}: a process set has more members than its group, which has {len(group)}.")


def check_credits(estimator: AdvantageEstimator, groups: Sequence[Group], credits: Sequence[Credit]) -> None:
    """Refuse credit that is not one finite number a token."""
    who = f"Advantage estimator {type(estimator).__name__!r}"
    if not isinstance(credits, Sequence) or len(credits) != len(groups):
        got = f"{len(credits)} results" if isinstance(credits, Sequence) else f"a {type(credits).__name__}"
        raise ContractError(
            f"{who} returned {got} for {len(groups)} groups; estimate_batch returns one Credit per group, in order."
        )
    for group, credit in zip(groups, credits, strict=True):
        where = f"{who}, prompt {group.prompt.uid!r}"
        if not isinstance(credit, Credit):
            raise ContractError(f"{where}: got a {type(credit).__name__}; estimate returns a Credit.")
        for name, value in vars(credit).items():
            _check_shape(value, group, f"{where}: {name}")
            if not bool(value.isfinite().all()):
                raise ContractError(f"{where}: {name} has numbers that are not finite; use 0 for 'no credit'.")
            if value.dtype != torch.float32:
                raise ContractError(f"{where}: {name} is {value.dtype}; it must be float32.")
            if bool((value[~_real(group).to(value.device)] != 0).any()):
                raise ContractError(f"{where}: {name} is not 0 on padding.")
        if bool((credit.weights < 0).any()):
            raise ContractError(f"{where}: a weight is negative; weights say how much a token counts.")


def warn_of_unread(estimator: AdvantageEstimator, reward_model: RewardSum, rewards: Sequence[Rewards]) -> None:
    """Say once that process rewards are given and not read."""
    given = {name for name in ("steps", "tokens") for r in rewards if getattr(r, name) is not None}
    if not given or given & set(estimator.reads):
        return
    names = ", ".join(model.name for model in reward_model.models)
    rank_zero_warn(  # the same words every time, so that they are said once
        f"The rewards ({names}) give process rewards (Rewards.{', Rewards.'.join(sorted(given))}), but "
        f"{type(estimator).__name__} does not read them: they change nothing. Take ProcessGRPO or BlendedGRPO."
    )


def _real(group: Group) -> Tensor:
    """``[G, T]`` bool: where completions have tokens."""
    lengths = torch.tensor([len(r) for r in group.completions])
    return torch.arange(int(lengths.max())) < lengths[:, None]


def _check_shape(value: Any, group: Group, what: str) -> None:
    """``[G, T]``: completions by tokens of the longest."""
    wanted = [len(group), max(len(r) for r in group.completions)]
    if not isinstance(value, Tensor):
        raise ContractError(f"{what} is a {type(value).__name__}; it must be a tensor of shape {wanted}.")
    if list(value.shape) != wanted:
        raise ContractError(
            f"{what} has shape {list(value.shape)}; it must be {wanted}, completions by tokens of the longest."
        )
