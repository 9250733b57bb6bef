"""GRPO with process supervision: a token's advantage is the sum, or the minimum, of its own and later step rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lgrpo_lightning.contracts import Reduce
from lgrpo_lightning.errors import UserError, require
from lgrpo_lightning.estimators.grpo import Power, Scale, WeightedGRPO
from lgrpo_lightning.functional.process_rewards import minima_to_come, normalise, sums_to_come
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Credit, Rewards

Statistics = Literal["completions", "nodes"]
Aggregate = Literal["sum", "min"]


class ProcessGRPO(WeightedGRPO):
    r"""A token's advantage is the sum of the normalised rewards of its own and later steps (arXiv:2402.03300, 4.1.3).

    .. math:: \tilde r_{i,j} = \frac{r_{i,j} - \mathrm{mean}(R)}{\mathrm{std}(R) + \epsilon}, \quad
        A_{i,t} = \sum_{\mathrm{end}(j) \ge t} \tilde r_{i,j}, \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    R are the rewards of all steps that completions of the group train a token of. It reads ``Rewards.steps``, and
    ``Rewards.tokens`` as steps of one token each; the outcome is not read. All equal rewards give exactly 0.

    With the aggregate "min" the value of a step is the smallest of its own and later rewards (after PURE,
    arXiv:2504.15275), so that one bad step is not made up for by many good ones, nor by more of them:

    .. math:: m_{i,j} = \min_{k \ge j} r_{i,k}, \quad A_{i,t} = \frac{m_{i,j} - \mathrm{mean}(M)}{\mathrm{std}(M)
        + \epsilon} \text{ for the first j with } \mathrm{end}(j) \ge t

    M are the minima of all steps that completions of the group train a token of. Minima are normalised rather than
    rewards, or a group of equal minima would not give 0. The paper trains by a softmin that turns its rewards into ones
    whose sum is near the minimum, with a baseline of its own; these are not here.

    Args:
        scale: Which standard deviation divides the rewards: "group" that of R, "batch" that of the whole rollout
            batch on all ranks, "none" nothing.
        eps: Added to the standard deviation; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.
        statistics: What mean and deviation are taken over: "completions" counts a step that k completions share k
            times, as the paper's formula does; "nodes" once.
        aggregate: What of the rewards of its own and later steps is a token's: the "sum", or the "min".

    Raises:
        ValueError: An argument is not possible.

    >>> tree = ProcessTree.from_steps([["a", "b"], ["a", "c"]], [[0, 0, 1], [0, 1]])
    >>> rewards = Rewards(outcome=torch.zeros(2), steps=torch.tensor([1.0, 1.0, 0.0]))
    >>> ProcessGRPO(scale="none").estimate(rewards, tree).advantages.tolist()
    [[0.5, 0.5, 0.25], [-0.5, -0.75, 0.0]]
    >>> ProcessGRPO(scale="none", aggregate="min").estimate(rewards, tree).advantages.tolist()
    [[0.5, 0.5, 0.5], [-0.5, -0.5, 0.0]]
    """

    reads: ClassVar[tuple[str, ...]] = ("steps", "tokens")

    def __init__(
        self,
        scale: Scale = "group",
        eps: float = 1e-4,
        lambda_power: Power = 0.0,
        statistics: Statistics = "completions",
        aggregate: Aggregate = "sum",
    ) -> None:
        super().__init__(scale=scale, eps=eps, lambda_power=lambda_power)
        who = type(self).__name__
        require(
            f"{who}: ",
            locals(),
            (statistics in ("completions", "nodes"), "statistics", "'completions' or 'nodes'"),
            (aggregate in ("sum", "min"), "aggregate", "'sum' or 'min'"),
        )
        if aggregate == "min" and statistics == "nodes":
            raise UserError(
                f"{who}: statistics is 'nodes' and aggregate 'min'. Completions that share a step differ in the "
                "minimum to come, so that it cannot count once. Use statistics: completions."
            )
        self.statistics: Statistics = statistics
        self.aggregate: Aggregate = aggregate

    def estimate_batch(
        self, rewards: Sequence[Rewards], trees: Sequence[ProcessTree], *, reduce: Reduce
    ) -> list[Credit]:
        """The credit of every group of the batch.

        Raises:
            ValueError: No reward model gives process rewards.
        """
        return [self.credit(a, t) for a, t in zip(self.process_advantages(rewards, trees, reduce), trees, strict=True)]

    def process_advantages(
        self, rewards: Sequence[Rewards], trees: Sequence[ProcessTree], reduce: Reduce
    ) -> list[Tensor]:
        """``[G, T]`` of every group.

        Raises:
            ValueError: No reward model gives process rewards.
        """
        if rewards and all(r.steps is None and r.tokens is None for r in rewards):
            raise UserError(
                f"{type(self).__name__} reads process rewards, but no reward model gives any (Rewards.steps or "
                "Rewards.tokens). Add one that does, such as StepRewardFunction, or take GRPO or LambdaGRPO."
            )
        values = [self._values(r, t) for r, t in zip(rewards, trees, strict=True)]
        pools = [self._pool(r, t, v) for r, t, v in zip(rewards, trees, values, strict=True)]
        deviation = self.deviation(pools, reduce)
        to_come = sums_to_come if self.aggregate == "sum" else minima_to_come
        return [to_come(self._normalise(v, p, deviation)).nan_to_num(0.0) for v, p in zip(values, pools, strict=True)]

    def _values(self, rewards: Rewards, tree: ProcessTree) -> Tensor:
        """``[K, G, T]``: process rewards where they are given, NaN elsewhere; a layer of steps, one of tokens.

        With the aggregate "min" one layer, which has in their places the minima to come.
        """
        none = torch.full(tree.trained.shape, torch.nan)
        given = [none if rewards.steps is None else tree.at_ends(rewards.steps)]
        if rewards.tokens is not None:
            given.append(torch.where(tree.trained, rewards.tokens, torch.nan))
        layers = torch.stack(given)
        if self.aggregate == "sum":
            return layers
        empty = layers.isnan()
        return minima_to_come(layers.masked_fill(empty, torch.inf).amin(0)).masked_fill(empty.all(0), torch.nan)[None]

    def _pool(self, rewards: Rewards, tree: ProcessTree, values: Tensor) -> Tensor:
        """The numbers that mean and deviation are taken over."""
        if self.statistics == "nodes" and rewards.steps is not None:
            trained = sorted(set(tree.step_ids[tree.trained].tolist()))
            return torch.cat([rewards.steps[trained], values[1:].flatten()])
        return values.flatten()

    def _normalise(self, values: Tensor, pool: Tensor, deviation: Tensor | None) -> Tensor:
        """``[G, T]``: the layers normalised and added up; NaN where none has a value."""
        out = normalise(values, pool, scale=self.scale == "group", eps=self.eps)
        if deviation is not None:
            out = out / (deviation + self.eps)
        return torch.where(out.isnan().all(0), torch.nan, out.nansum(0))
