"""REINFORCE++: rewards normalised over the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lgrpo_lightning.contracts import Reduce
from lgrpo_lightning.errors import require
from lgrpo_lightning.estimators.grpo import Power, WeightedGRPO, batch_statistics
from lgrpo_lightning.functional import group_advantages
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Credit, Rewards

NormalizeOver = Literal["tokens", "completions"]


class ReinforcePlusPlus(WeightedGRPO):
    r"""Advantages normalised over the global batch, with or without a group baseline (arXiv:2501.03262).

    .. math:: x_i = r_i \text{ or } r_i - \mathrm{mean}(r), \quad
        A_{i,t} = \frac{x_i - \mathrm{mean}_B(x)}{\mathrm{std}_B(x) + \epsilon},
        \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    B is the rollout on all ranks. The paper's statistics are over A(i,t), one number a token, and so is the code
    of verl; others take one a completion. ε is this library's: the paper has none. The paper puts the KL penalty
    into the reward; here it belongs to the loss.

    A group of equal rewards is not 0: without baseline it is as far from the batch's mean as its reward is; with it,
    and "tokens", all that is left is the mean over the tokens of the batch, which differs from 0 where lengths do. With
    baseline and "completions" it is exactly 0. So it is where all rewards of the batch are equal.

    Args:
        baseline: Whether the group's mean is taken off first (REINFORCE++-baseline).
        eps: Added to the standard deviation; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.
        normalize_over: What mean and deviation count: "tokens", each completion as often as it has trained tokens,
            or "completions", once.

    Raises:
        ValueError: An argument is out of range.

    >>> tree = ProcessTree.from_sequences([[1], [2], [3]])
    >>> rewards = Rewards(outcome=torch.tensor([0.0, 1.0, 2.0]))
    >>> [round(a, 3) for a in ReinforcePlusPlus().estimate(rewards, tree).advantages[:, 0].tolist()]
    [-1.0, 0.0, 1.0]
    """

    def __init__(
        self,
        baseline: bool = False,
        eps: float = 1e-4,
        lambda_power: Power = 0.0,
        normalize_over: NormalizeOver = "tokens",
    ) -> None:
        super().__init__(scale="batch", eps=eps, lambda_power=lambda_power)
        known = normalize_over in ("tokens", "completions")
        require("ReinforcePlusPlus: ", locals(), (known, "normalize_over", "'tokens' or 'completions'"))
        self.baseline = baseline
        self.normalize_over: NormalizeOver = normalize_over

    def estimate_batch(
        self, rewards: Sequence[Rewards], trees: Sequence[ProcessTree], *, reduce: Reduce
    ) -> list[Credit]:
        """The credit of every group of the batch; collective over the ranks."""
        values = [self._values(r.outcome) for r in rewards]
        counted = values
        if self.normalize_over == "tokens":
            counted = [v.repeat_interleave(t.trained.sum(1)) for v, t in zip(values, trees, strict=True)]
        mean, deviation = batch_statistics(counted, reduce)
        if self.baseline and self.normalize_over == "completions":
            mean = torch.zeros_like(mean)  # by definition, and so without rounding
        return [
            self.credit(((v - mean) / (deviation + self.eps)).nan_to_num(0.0)[:, None], t)
            for v, t in zip(values, trees, strict=True)
        ]

    def _values(self, outcome: Tensor) -> Tensor:
        """``[G]`` what is normalised; NaN where the reward does not apply."""
        if not self.baseline:
            return outcome.double()
        return torch.where(outcome.isnan(), torch.nan, group_advantages(outcome[None], scale="none")[0])
