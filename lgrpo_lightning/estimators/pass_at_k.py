"""Pass@k training: the mean advantage of a completion over all subsets of k that contain it."""

from __future__ import annotations

import warnings
from math import comb
from typing import ClassVar

import torch
from torch import Tensor

from lgrpo_lightning.errors import require
from lgrpo_lightning.estimators.grpo import Power, WeightedGRPO
from lgrpo_lightning.functional import reaches


class PassAtK(WeightedGRPO):
    r"""Pass@k as the reward, its advantage in closed form (arXiv:2508.10751).

    .. math:: \bar R = 1 - \binom{n_-}{k} \Big/ \binom{n}{k}, \quad \sigma = \sqrt{\bar R (1 - \bar R)}, \quad
        A_+ = \frac{1 - \bar R}{\sigma}, \quad
        A_- = \frac{1 - \bar R - \binom{n_- - 1}{k-1} / \binom{n-1}{k-1}}{\sigma},
        \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    for the n completions whose reward applies, n_- of them wrong: the mean over all subsets of k that hold the
    completion, each rewarded 1 where any of its members is right. A wrong completion that is always beside a right one
    costs nothing, which leaves room to explore. The formula is that of the authors' README; their code adds 1e-6 to σ.
    Exactly 0 where pass@k is certain: no completion is right, or fewer than k are wrong; so k must be below the group's
    size, and well below it for prompts that are often solved. k = 1 is GRPO on right and wrong, with the deviation of
    the population. The authors' k could not be read; 4 is this library's.

    Args:
        k: Size of the subsets; at least 1, and below the group's size, or there is nothing to compare (warned of).
        success_threshold: A completion is right if its outcome reward is at least this.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.

    Raises:
        ValueError: An argument is out of range.

    By hand, n = 4, one right, k = 2: the mean is 1 - 3/6 = 1/2, σ = 1/2; A_+ = 1, A_- = (1/2 - 2/3) · 2 = -1/3.

    >>> from lgrpo_lightning.process_tree import ProcessTree
    >>> from lgrpo_lightning.types import Rewards
    >>> tree = ProcessTree.from_sequences([[1, 2], [1], [3], [4]])
    >>> found = PassAtK(k=2).estimate(Rewards(outcome=torch.tensor([1.0, 0.0, 0.0, 0.0])), tree).advantages
    >>> [[round(a, 4) for a in row] for row in found.tolist()]
    [[1.0, 1.0], [-0.3333, 0.0], [-0.3333, 0.0], [-0.3333, 0.0]]
    """

    takes_penalties: ClassVar[bool] = False

    def __init__(self, k: int = 4, success_threshold: float = 1.0, lambda_power: Power = 0.0) -> None:
        super().__init__(scale="none", lambda_power=lambda_power)
        require("PassAtK: ", locals(), (k >= 1, "k", "at least 1"))
        self.k = k
        self.success_threshold = success_threshold

    def outcome_advantages(self, outcome: Tensor, deviation: Tensor | None = None) -> Tensor:
        """``[G]``: one number for right completions, one for wrong ones, 0 where the reward does not apply."""
        if 1 < len(outcome) <= self.k:
            warnings.warn(  # the same words every time, so that they are said once
                f"PassAtK: k is {self.k} and a group has {len(outcome)} completions, one subset with nothing to "
                "compare it with: all its advantages are 0. Take a k below model.group_size.",
                stacklevel=2,
            )
        right, valid = reaches(outcome, self.success_threshold), ~outcome.isnan()
        plus, minus = self._both(int(valid.sum()), int((valid & ~right).sum()))
        return torch.where(right, plus, torch.where(valid, minus, 0.0)).float()

    def _both(self, count: int, wrong: int) -> tuple[float, float]:
        """The advantage of a right and of a wrong completion."""
        k = min(self.k, count)
        missed = comb(wrong, k) / comb(count, k) if count else 0.0  # the share of subsets without a right one
        if wrong == count or missed == 0:
            return 0.0, 0.0
        sigma = (missed * (1 - missed)) ** 0.5
        return missed / sigma, (missed - comb(wrong - 1, k - 1) / comb(count - 1, k - 1)) / sigma
