"""Sum of outcome and process advantages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lgrpo_lightning.contracts import Reduce
from lgrpo_lightning.estimators.grpo import Power, Scale
from lgrpo_lightning.estimators.process_grpo import Aggregate, ProcessGRPO, Statistics
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Credit, Rewards


class BlendedGRPO(ProcessGRPO):
    r"""Outcome advantage plus a coefficient times the advantage of this and later steps.

    .. math:: A_{i,t} = A^\mathrm{outcome}_i + c \, A^\mathrm{process}_{i,t}, \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    with ``GRPO``'s advantage of the outcome and ``ProcessGRPO``'s of the step rewards, each normalised separately.

    Args:
        coefficient: c, weight of the process rewards.
        scale: Standard deviation that divides each of the two, as in ``GRPO``.
        eps: Added to the standard deviation; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.
        statistics: What mean and deviation of process rewards are taken over, as in ``ProcessGRPO``.
        aggregate: What of the process rewards to come is a token's: the "sum", or the "min", as in ``ProcessGRPO``.

    >>> import torch
    >>> tree = ProcessTree.from_steps([["a", "b"], ["a", "c"]], [[0, 0, 1], [0, 1]])
    >>> rewards = Rewards(outcome=torch.tensor([1.0, 0.0]), steps=torch.tensor([1.0, 1.0, 0.0]))
    >>> BlendedGRPO(coefficient=2.0, scale="none").estimate(rewards, tree).advantages.tolist()
    [[1.5, 1.5, 1.0], [-1.5, -2.0, 0.0]]
    """

    reads: ClassVar[tuple[str, ...]] = ("outcome", "steps", "tokens")

    def __init__(
        self,
        coefficient: float = 1.0,
        scale: Scale = "group",
        eps: float = 1e-4,
        lambda_power: Power = 0.0,
        statistics: Statistics = "completions",
        aggregate: Aggregate = "sum",
    ) -> None:
        super().__init__(scale=scale, eps=eps, lambda_power=lambda_power, statistics=statistics, aggregate=aggregate)
        self.coefficient = coefficient

    def estimate_batch(
        self, rewards: Sequence[Rewards], trees: Sequence[ProcessTree], *, reduce: Reduce
    ) -> list[Credit]:
        """The credit of every group of the batch.

        Raises:
            ValueError: No reward model gives process rewards.
        """
        process = self.process_advantages(rewards, trees, reduce)
        deviation = self.deviation([r.outcome for r in rewards], reduce)
        return [
            self.credit(self.outcome_advantages(r.outcome, deviation)[:, None] + self.coefficient * p, t)
            for r, p, t in zip(rewards, process, trees, strict=True)
        ]
