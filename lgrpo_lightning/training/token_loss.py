"""The loss of every token: the policy loss with what corrects, masks and penalises it; the weight of the bonus."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.errors import check_metrics
from lgrpo_lightning.functional import importance_values, importance_weights, kl_estimate
from lgrpo_lightning.functional.importance import ImportanceMode
from lgrpo_lightning.monitoring.metrics import Means
from lgrpo_lightning.training.options import Objective
from lgrpo_lightning.types import LossInput

ROUNDING = 1e-5
"""Nats that entropies of one token may differ by in passes of other shapes. Completions share tokens, so the bound
often falls among equal entropies: all of them are taken, or none."""


@dataclass(frozen=True, kw_only=True)
class TokenLoss:
    """Adds up the parts of a token's loss, and counts what they say into the metrics.

    Attributes:
        loss: The policy loss.
        objective: What else there is.
        importance: Correction for the sampler; with "none" its ratios are only logged. None where it truncates, and
            there is nothing to compare.
        corrects: Whether the correction is applied.
    """

    loss: PolicyLoss
    objective: Objective
    importance: ImportanceMode | None
    corrects: bool

    def __call__(self, batch: LossInput, *, kept: Tensor | None, mask: Tensor, means: Means) -> Tensor:
        """``[N, T]`` the loss of every token.

        Args:
            kept: ``[N, T]`` bool, the tokens that the policy loss trains; None: all of the batch's.
            mask: Tokens that the metrics count; none of a pass that only keeps the ranks in step.
        """
        batch = replace(batch, advantages=self.loss.advantages(batch))
        if self.importance is not None:
            weights = self._importance_weights(batch, mask, means, mode=self.importance)
            batch = replace(batch, importance=weights if self.corrects and self.importance != "none" else None)
        terms = self.loss.terms(batch)
        if batch.importance is not None and not self.loss.corrects:
            terms = terms * batch.importance
        for factor in (kept, self._on_policy(batch, mask, means)):
            terms = terms if factor is None else torch.where(factor, terms, 0.0)
        if batch.ref_logprobs is not None:
            kl = kl_estimate(batch.logprobs, batch.ref_logprobs, estimator=self.objective.kl_estimator)
            if self.objective.kl_unbiased:
                kl = kl * self.loss.ratio(batch)
            means.add("kl", kl, mask)
            terms = terms + self.objective.kl_coef * kl
        means.add("entropy", batch.entropies, mask)
        check_metrics(type(self.loss).__name__, logged := self.loss.metrics(batch))
        for name, values in logged.items():
            means.add(name, values, mask)
        return terms

    def _on_policy(self, batch: LossInput, mask: Tensor, means: Means) -> Tensor | None:
        """``[N, T]`` False where a completion with a negative advantage is too far from the policy.

        A sampler that truncates says nothing of how far: there the policy before the update stands for it.
        """
        if self.objective.off_policy_kl is None:
            return None
        drawn_from = batch.old_logprobs if self.importance is None else batch.sampler_logprobs
        drift = (drawn_from - batch.logprobs.detach()).nan_to_num(0.0)
        drift = torch.where(batch.mask, drift, 0.0).sum(-1, keepdim=True) / batch.lengths
        kept = (batch.advantages >= 0) | (drift <= self.objective.off_policy_kl)
        means.add("updates/off_policy_masked", ~kept, mask)
        return kept

    def _importance_weights(self, batch: LossInput, mask: Tensor, means: Means, *, mode: ImportanceMode) -> Tensor:
        """``[N, T]`` factor that corrects the surrogate for the sampler; logged under TRL's names."""
        objective, old, sampler = self.objective, batch.old_logprobs, batch.sampler_logprobs
        bounds = {"maximum": objective.importance_max, "minimum": objective.importance_min}
        if mode == "none":  # nothing is corrected: the bare ratio of every token
            mode, bounds = "token_mask", {"maximum": None, "minimum": None}
        weights = importance_weights(old, sampler, batch.mask, mode=mode, **bounds)
        for name, values in importance_values(old, sampler, weights, mask, mode=mode).items():
            means.add(f"{name}/mean", values)
            means.extreme(f"{name}/max", values.nan_to_num(-torch.inf, torch.inf).max(), largest=True)
            if name.endswith("ratio"):
                means.extreme(f"{name}/min", values.nan_to_num(torch.inf, torch.inf).min(), largest=False)
        return weights


def select_high_entropy(entropies: Tensor, taking_part: Tensor, share: float, ranks: Ranks) -> Tensor:
    """``[N, T]`` bool: tokens in the top ``share`` of entropy of an optimizer step, on all ranks. Collective.

    Args:
        entropies: ``[N, T]`` before the update.
        taking_part: ``[N, T]`` bool, the trained tokens of the optimizer step.

    >>> h = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
    >>> select_high_entropy(h, torch.ones(1, 4).bool(), 0.5, Ranks()).tolist()
    [[False, True, False, True]]
    """
    found = ranks.gather(entropies[taking_part].float().cpu())
    everywhere = torch.cat(found[:: len(found) // ranks.world_size])  # of a tensor group one rank
    if not len(everywhere):
        return taking_part
    return entropies >= float(numpy.quantile(everywhere.double().numpy(), 1 - share)) - ROUNDING


class EntropyBonus:
    """The weight of the entropy bonus, fixed or steered towards a target (Skywork-OR1, arXiv:2505.22312).

    With a target, the weight rises by a step of its own while the entropy of an optimizer step is at or below it, and
    falls while it is above; it is applied only where the last optimizer step was at or below, and so not before the
    first one.

    >>> bonus = EntropyBonus(Objective(entropy_target=0.5, entropy_coef_delta=0.01))
    >>> weights = []
    >>> for entropy in (0.4, 0.4, 0.6, 0.4):
    ...     weights.append(bonus.coefficient)
    ...     bonus.saw(entropy)
    >>> weights
    [0.0, 0.01, 0.02, 0.0]
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.weight = objective.entropy_coef
        self.low = False  # whether the entropy was at or below the target; not known yet

    @property
    def coefficient(self) -> float:
        """The weight of the next optimizer step."""
        return self.weight if self.objective.entropy_target is None or self.low else 0.0

    def saw(self, entropy: float) -> None:
        """An optimizer step was made, whose tokens had this mean entropy on all ranks."""
        objective = self.objective
        if objective.entropy_target is None:
            return
        self.low = entropy <= objective.entropy_target
        change = objective.entropy_coef_delta if self.low else -objective.entropy_coef_delta
        self.weight = min(max(self.weight + change, 0.0), objective.entropy_coef_max)

    def state_dict(self) -> dict[str, Any]:
        """Weight and place."""
        return {"weight": self.weight, "low": self.low}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        if self.objective.entropy_target is not None:  # else the weight is the configuration's
            self.weight = min(state["weight"], self.objective.entropy_coef_max)
            self.low = state["low"]
