"""GDPO: each reward is normalised separately before the sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lgrpo_lightning.contracts import Reduce
from lgrpo_lightning.estimators.grpo import Power, WeightedGRPO, batch_statistics
from lgrpo_lightning.functional import group_advantages
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Credit, Rewards


class GDPO(WeightedGRPO):
    r"""Group reward-decoupled normalisation, for several rewards (arXiv:2601.05242).

    .. math:: s_i = \sum_k c_k \, \frac{r^k_i - \mathrm{mean}(r^k)}{\mathrm{std}(r^k) + \epsilon}, \quad
        A_{i,t} = \frac{s_i}{\mathrm{std}_B(s) + \epsilon}, \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    r^k are the parts of the reward, c_k their weights (``reward_weights``), B the rollout on all ranks. The mean
    of s over B, which the paper takes off, is 0 as that of every group is. Summed first, as GRPO does, different
    combinations of rewards may have the same sum, and a reward of large spread dominates.

    It is TRL's ``multi_objective_aggregation="normalize_then_sum"``. A part that does not apply adds nothing; parts
    that are equal in the group give exactly 0. With ``updates.drop_equal_groups`` a group whose parts differ and whose
    sums are equal is dropped all the same.

    Args:
        eps: Added to both standard deviations (with Bessel's correction); above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.

    By hand, two completions: each part is ±1/√2 of its deviation, whatever its scale is; s = ±(1 + 0.5)/√2, whose
    deviation over the batch is 1.5, so that A = ±1/√2.

    >>> tree = ProcessTree.from_sequences([[1, 2], [3]])
    >>> parts = {"right": torch.tensor([1.0, 0.0]), "short": torch.tensor([300.0, 100.0])}
    >>> rewards = Rewards(outcome=parts["right"], parts=parts, part_weights={"short": 0.5})
    >>> [[round(a, 3) for a in row] for row in GDPO().estimate(rewards, tree).advantages.tolist()]
    [[0.707, 0.707], [-0.707, 0.0]]
    """

    takes_penalties: ClassVar[bool] = False

    def __init__(self, eps: float = 1e-4, lambda_power: Power = 0.0) -> None:
        super().__init__(scale="group", eps=eps, lambda_power=lambda_power)

    def estimate_batch(
        self, rewards: Sequence[Rewards], trees: Sequence[ProcessTree], *, reduce: Reduce
    ) -> list[Credit]:
        """The credit of every group of the batch; collective over the ranks."""
        sums = [self._sums(r) for r in rewards]
        deviation = batch_statistics(sums, reduce)[1]
        return [
            self.credit((s / (deviation + self.eps)).nan_to_num(0.0)[:, None], t)
            for s, t in zip(sums, trees, strict=True)
        ]

    def _sums(self, rewards: Rewards) -> Tensor:
        """``[G]`` the weighted sum of the normalised parts; NaN where no reward applies."""
        parts = rewards.parts or {"outcome": rewards.outcome}
        weighted = [
            rewards.part_weights.get(name, 1.0) * group_advantages(part[None], eps=self.eps)[0].double()
            for name, part in parts.items()
        ]
        return torch.where(rewards.outcome.isnan(), torch.nan, torch.stack(weighted).sum(0))
