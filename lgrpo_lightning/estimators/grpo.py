"""GRPO: every token has the advantage of its completion and weight 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lgrpo_lightning.contracts import AdvantageEstimator, Reduce
from lgrpo_lightning.errors import require
from lgrpo_lightning.functional import group_advantages
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Credit, Rewards

Scale = Literal["group", "batch", "none"]


@dataclass(frozen=True, kw_only=True)
class SignedPower:
    r"""Powers p of the λ weights 1/\|λ(i,t)\|^p by the sign of the process set's mean advantage.

    Attributes:
        blame: p where the mean is below 0; at least 0.
        praise: p elsewhere; at least 0.
    """

    blame: float = 1.0
    praise: float = 0.0


Power = float | SignedPower
"""The power of λ weights: one for all process sets, or two."""


class GRPO(AdvantageEstimator):
    r"""Group-relative advantages, every token weighted 1 (arXiv:2402.03300).

    .. math:: A_{i,t} = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std} + \epsilon}, \quad w_{i,t} = 1

    Groups of equal rewards give exactly 0. NaN rewards are not in mean and deviation and get 0.

    Args:
        scale: Standard deviation (with Bessel's correction) that divides the advantages: of the "group", of the
            "batch" (all rewards of the rollout on all ranks), or "none" (Dr.GRPO).
        eps: Added to the standard deviation; above 0.

    Raises:
        ValueError: An argument is out of range.

    >>> tree = ProcessTree.from_sequences([[1, 2], [1], [3]])
    >>> credit = GRPO(scale="none").estimate(Rewards(outcome=torch.tensor([2.0, 1.0, 0.0])), tree)
    >>> credit.advantages.tolist(), credit.weights.tolist()
    ([[1.0, 1.0], [0.0, 0.0], [-1.0, 0.0]], [[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    """

    reads: ClassVar[tuple[str, ...]] = ("outcome",)

    def __init__(self, scale: Scale = "group", eps: float = 1e-4) -> None:
        require(
            f"{type(self).__name__}: ",
            locals(),
            (scale in ("group", "batch", "none"), "scale", "'group', 'batch' or 'none'"),
            (eps > 0, "eps", "above 0, such as 1e-4"),
        )
        self.scale: Scale = scale
        self.eps = eps
        self.by_sign: SignedPower | None = None

    def set_power(self, name: str, power: Power) -> None:
        """Give tokens λ weights.

        Args:
            name: Of the option.

        Raises:
            ValueError: A power is no number, or below 0.
        """
        if isinstance(power, SignedPower):
            self.by_sign = power
            powers = {f"{name}.{part}": float(value) for part, value in vars(power).items()}
        else:
            powers = {name: power}
        allowed = [(0 <= value < math.inf, option, "a number that is at least 0") for option, value in powers.items()]
        require(f"{type(self).__name__}: ", powers, *allowed)
        self.power = max(powers.values())

    def estimate(self, rewards: Rewards, tree: ProcessTree) -> Credit:
        """The credit of one group; with ``scale="batch"`` as if it were the whole batch."""
        return self.estimate_batch([rewards], [tree], reduce=lambda x: x)[0]

    def estimate_batch(
        self, rewards: Sequence[Rewards], trees: Sequence[ProcessTree], *, reduce: Reduce
    ) -> list[Credit]:
        """The credit of every group of the batch; collective over the ranks with ``scale="batch"``."""
        deviation = self.deviation([r.outcome for r in rewards], reduce)
        return [
            self.credit(self.token_advantages(r.outcome, tree, deviation), tree)
            for r, tree in zip(rewards, trees, strict=True)
        ]

    def token_advantages(self, outcome: Tensor, tree: ProcessTree, deviation: Tensor | None) -> Tensor:
        """Advantages that broadcast to ``[G, T]``, of one group; what a variant of GRPO overrides."""
        return self.outcome_advantages(outcome, deviation)[:, None]

    def deviation(self, values: Sequence[Tensor], reduce: Reduce) -> Tensor | None:
        """That of all values on all ranks, for ``scale="batch"``; None for other scales."""
        return batch_statistics(values, reduce)[1] if self.scale == "batch" else None

    def outcome_advantages(self, outcome: Tensor, deviation: Tensor | None = None) -> Tensor:
        """``[G]`` advantages of completions; ``deviation``: that of the batch, for ``scale="batch"``."""
        scale: Literal["group", "none"] = "group" if self.scale == "group" else "none"
        advantages = group_advantages(outcome[None], scale=scale, eps=self.eps)[0]
        return advantages if deviation is None else advantages / (deviation + self.eps)

    def credit(self, advantages: Tensor, tree: ProcessTree) -> Credit:
        """Credit from advantages that broadcast to ``[G, T]``: 0 on untrained tokens, weighted by ``power``."""
        advantages = torch.where(tree.trained, advantages, 0.0).float()
        weights = self.weights(tree) if self.by_sign is None else weigh_by_sign(tree, advantages, self.by_sign)
        return Credit(advantages=advantages, weights=weights)

    def weights(self, tree: ProcessTree) -> Tensor:
        """``[G, T]`` 1/|λ(i, t)|^p, 0 where nothing is trained. The only thing λ-GRPO changes."""
        return tree.weights(self.power)


def weigh_by_sign(tree: ProcessTree, advantages: Tensor, power: SignedPower) -> Tensor:
    """``[G, T]`` 1/|λ(i, t)|^p with p of blame where the members' ``advantages`` ``[G, T]`` are below 0 in sum."""
    blamed = tree.set_sums(advantages) < -1e-6 * tree.set_sums(advantages.abs())  # rounding is no blame
    return torch.where(blamed, tree.weights(power.blame), tree.weights(power.praise))


class WeightedGRPO(GRPO):
    """Base class of estimators with λ weights (``lambda_power``).

    Args:
        scale: Standard deviation that divides the advantages, as in ``GRPO``.
        eps: Added to the standard deviation; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p, at least 0; or one for blame and one for praise.
    """

    def __init__(self, scale: Scale = "group", eps: float = 1e-4, lambda_power: Power = 0.0) -> None:
        super().__init__(scale=scale, eps=eps)
        self.lambda_power = lambda_power
        self.set_power("lambda_power", lambda_power)


def batch_statistics(values: Sequence[Tensor], reduce: Reduce) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (Bessel) of all valid values on all ranks: fp64 scalars, 0 for too few.

    Two passes (first the mean, then the squared deviations from it), because a sum of squares loses the
    digits of values far from 0. Every rank calls it, also one without groups.

    >>> [s.item() for s in batch_statistics([torch.tensor([0.0, float("nan")]), torch.tensor([2.0])], lambda x: x)]
    [1.0, 1.4142135623730951]
    """
    flat = torch.cat([v.double() for v in values]) if values else torch.zeros(0, dtype=torch.double)
    valid = flat[~flat.isnan()]
    total, count = reduce(torch.stack([valid.sum(), valid.new_tensor(len(valid))])).unbind()
    mean = total / count.clamp(min=1)
    squares = reduce((valid - mean.to(valid)).square().sum()[None])[0]
    deviation = (squares / (count - 1).clamp(min=1)).sqrt()
    return mean.to(flat), deviation.to(flat)
