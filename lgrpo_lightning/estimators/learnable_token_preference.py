"""The λ-GRPO of learnable token preferences: a learned number prefers long or short completions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.contracts import Reduce
from lgrpo_lightning.errors import require
from lgrpo_lightning.estimators.grpo import Power, Scale, WeightedGRPO
from lgrpo_lightning.functional import group_advantages
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Credit, Rewards


class LearnableTokenPreference(WeightedGRPO):
    r"""GRPO with weights that depend on a completion's length, to a learned degree (arXiv:2510.06870).

    .. math:: z_i = \frac{T_i - \mu}{\sigma + \epsilon}, \quad h_i = 1 + r z_i, \quad
        f_i = G \, \mathrm{softmax}(h^\Lambda)_i, \quad w_{i,t} = \frac{f_i}{|\lambda(i,t)|^p}

    with GRPO's advantages; the paper calls it λ-GRPO and Λ λ. Λ starts at 0, where all f are 1; above 0 long
    completions count more, below 0 short ones. Take the token normaliser, which is the paper's.

    This library's interpretation: after each rollout Λ takes one step of gradient descent on the value that the
    loss has at the first update (ratio 1, no KL, the batch's N tokens on all ranks),

    .. math:: L(\Lambda) = -\frac{1}{N} \sum_i f_i(\Lambda) \sum_t \frac{a_i}{|\lambda(i,t)|^p}, \quad
        \Lambda \leftarrow \Lambda - \eta \, L'(\Lambda)

    The paper learns Λ with the model; its learning rate and whether σ has Bessel's correction (here it has) could not
    be read. h below 0.001 is 0.001, which r = 1/9 cannot reach in groups of up to 82. Λ is kept in checkpoints.

    Args:
        length_ratio: r, how far length moves h; above 0.
        preference_lr: η, the learning rate of Λ; at least 0; 0 keeps it constant.
        scale: Standard deviation that divides the advantages, as in ``GRPO``.
        eps: Added to the standard deviation, of rewards and of lengths; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.

    Raises:
        ValueError: An argument is out of range.

    By hand, lengths 3 and 1, the longer one right: a = ±1/√2 = z, ln h = ln(1 ± 0.0786) = 0.0756 and -0.0818, so that
    f' = ±0.0787 at Λ = 0, L' = -(3 + 1) · 0.0787/√2 / 4 = -0.0557, and with η = 1 Λ = 0.0557.

    >>> tree = ProcessTree.from_sequences([[1, 2, 3], [4]])
    >>> estimator = LearnableTokenPreference(preference_lr=1.0)
    >>> rewards = Rewards(outcome=torch.tensor([1.0, 0.0]))
    >>> estimator.estimate_batch([rewards], [tree], reduce=lambda x: x)[0].weights.tolist()
    [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    >>> round(estimator.preference, 4)
    0.0557
    >>> [round(f, 4) for f in estimator.estimate(rewards, tree).weights[:, 0].tolist()]
    [1.0044, 0.9956]
    """

    def __init__(
        self,
        length_ratio: float = 1 / 9,
        preference_lr: float = 1e-3,
        scale: Scale = "group",
        eps: float = 1e-4,
        lambda_power: Power = 0.0,
    ) -> None:
        super().__init__(scale=scale, eps=eps, lambda_power=lambda_power)
        require(
            "LearnableTokenPreference: ",
            locals(),
            (0 < length_ratio < math.inf, "length_ratio", "a number above 0"),
            (0 <= preference_lr < math.inf, "preference_lr", "a number that is at least 0"),
        )
        self.length_ratio, self.preference_lr = length_ratio, preference_lr
        self.preference = 0.0

    def estimate(self, rewards: Rewards, tree: ProcessTree) -> Credit:
        """The credit of one group; Λ does not change."""
        deviation = self.deviation([rewards.outcome], lambda x: x)
        return self._weight(super().credit(self.outcome_advantages(rewards.outcome, deviation)[:, None], tree), tree)

    def estimate_batch(
        self, rewards: Sequence[Rewards], trees: Sequence[ProcessTree], *, reduce: Reduce
    ) -> list[Credit]:
        """The credit of every group of the batch, and then a step of Λ; collective over the ranks."""
        plain = super().estimate_batch(rewards, trees, reduce=reduce)
        told = torch.zeros(2, dtype=torch.double)
        for credit, tree in zip(plain, trees, strict=True):
            told += self._slope(credit, tree)
        slope, tokens = reduce(told).tolist()
        credits = [self._weight(credit, tree) for credit, tree in zip(plain, trees, strict=True)]
        self.preference += self.preference_lr * slope / max(tokens, 1.0)
        return credits

    def state_dict(self) -> dict[str, Any]:
        """Λ, for a checkpoint."""
        return {"preference": self.preference}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore Λ."""
        self.preference = float(state["preference"])

    def _factors(self, tree: ProcessTree) -> tuple[Tensor, Tensor]:
        """(f, its derivative by Λ), ``[G]`` double."""
        lengths = tree.trained.sum(1)
        counted = lengths > 0
        z = group_advantages(torch.where(counted, lengths, torch.nan)[None], eps=self.eps)[0].double()
        log = (1 + self.length_ratio * z).clamp(min=1e-3).log()
        power = (self.preference * log).clamp(max=50.0).exp()  # no overflow
        factors = counted.sum() * torch.where(counted, power, -torch.inf).softmax(0).nan_to_num(0.0)
        rise = power * log
        return factors, factors * (rise - (factors * rise).sum() / counted.sum().clamp(min=1))

    def _slope(self, plain: Credit, tree: ProcessTree) -> Tensor:
        """What a group adds to -N · L'(Λ), and its number of tokens."""
        value = (plain.advantages.double() * plain.weights).sum(1)
        return torch.stack([(self._factors(tree)[1] * value).sum(), tree.trained.sum().double()])

    def _weight(self, plain: Credit, tree: ProcessTree) -> Credit:
        """The credit, with the weights of each completion multiplied by f."""
        factors = self._factors(tree)[0].float()[:, None]
        return Credit(advantages=plain.advantages, weights=plain.weights * factors)
