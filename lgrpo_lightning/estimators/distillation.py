"""Token rewards as advantages: on-policy distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lgrpo_lightning.contracts import Reduce
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.estimators.grpo import Power, Scale, WeightedGRPO
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Credit, Rewards


class Distillation(WeightedGRPO):
    r"""The advantage of a token is its own reward, not normalised or summed, plus the outcome's advantage.

    .. math:: A_{i,t} = r_{i,t} + c \, \frac{r_i - \mathrm{mean}(r)}{\mathrm{std} + \epsilon},
        \quad w_{i,t} = \frac{1}{|\lambda(i,t)|^p}

    With ``TeacherLogprobs``, whose :math:`r_{i,t}` is log π_teacher - log π of the sampled token, that is on-policy
    distillation: the policy gradient of the reverse KL at each single token (GKD, arXiv:2306.13649; discount 0 in
    Thinking Machines' *On-Policy Distillation*, 2025). It reads ``Rewards.tokens``, NaN counting as 0, and the outcome,
    whose part is 0 where it does not apply.

    Args:
        coefficient: c, weight of the outcome.
        scale: Standard deviation that divides the outcome's advantage, as in ``GRPO``.
        eps: Added to the standard deviation; above 0.
        lambda_power: p of the weights 1/|λ(i,t)|^p; at least 0.

    >>> import torch
    >>> tree = ProcessTree.from_sequences([[1, 2], [3]])
    >>> tokens = torch.tensor([[-1.0, 0.5], [0.25, torch.nan]])
    >>> rewards = Rewards(outcome=torch.tensor([1.0, 0.0]), tokens=tokens)
    >>> Distillation(coefficient=2.0, scale="none").estimate(rewards, tree).advantages.tolist()
    [[0.0, 1.5], [-0.75, 0.0]]
    """

    reads: ClassVar[tuple[str, ...]] = ("outcome", "tokens")

    def __init__(
        self,
        coefficient: float = 1.0,
        scale: Scale = "group",
        eps: float = 1e-4,
        lambda_power: Power = 0.0,
    ) -> None:
        super().__init__(scale=scale, eps=eps, lambda_power=lambda_power)
        self.coefficient = coefficient

    def estimate_batch(
        self, rewards: Sequence[Rewards], trees: Sequence[ProcessTree], *, reduce: Reduce
    ) -> list[Credit]:
        """The credit of every group of the batch.

        Raises:
            ValueError: No reward model gives token rewards.
        """
        if rewards and all(r.tokens is None for r in rewards):
            raise UserError(
                "Distillation reads token rewards, but no reward model gives any (Rewards.tokens). Add one that does, "
                "such as TeacherLogprobs, or take GRPO or LambdaGRPO."
            )
        deviation = self.deviation([r.outcome for r in rewards], reduce)
        credits = []
        for r, tree in zip(rewards, trees, strict=True):
            tokens = 0.0 if r.tokens is None else r.tokens.nan_to_num(0)
            outcome = self.outcome_advantages(r.outcome, deviation)[:, None]
            credits.append(self.credit(tokens + self.coefficient * outcome, tree))
        return credits
