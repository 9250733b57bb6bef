"""The loss of every token: the policy loss with what corrects, masks and penalises it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.errors import check_metrics
from lgrpo_lightning.functional import importance_values, importance_weights, kl_estimate
from lgrpo_lightning.functional.importance import ImportanceMode
from lgrpo_lightning.monitoring.metrics import Means
from lgrpo_lightning.training.objective import Objective
from lgrpo_lightning.types import LossInput


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
            batch = replace(batch, importance=weights if self._applied else None)
        terms = self.loss.terms(batch)
        if batch.importance is not None and not self.loss.corrects:
            terms = terms * batch.importance
        for factor in (kept, self._on_policy(batch, mask, means)):
            terms = terms if factor is None else torch.where(factor, terms, 0.0)
        if batch.ref_logprobs is not None:
            terms = terms + self.objective.kl_coef * self._kl(batch, batch.ref_logprobs, mask, means)
        means.add("entropy", batch.entropies, mask)
        check_metrics(type(self.loss).__name__, logged := self.loss.metrics(batch))
        for name, values in logged.items():
            means.add(name, values, mask)
        return terms

    @property
    def _applied(self) -> bool:
        return self.corrects and self.importance != "none"

    def _kl(self, batch: LossInput, ref: Tensor, mask: Tensor, means: Means) -> Tensor:
        """``[N, T]`` the penalty."""
        kl = kl_estimate(batch.logprobs, ref, estimator=self.objective.kl_estimator)
        if self.objective.kl_unbiased:
            kl = kl * self.loss.ratio(batch)
        means.add("kl", kl, mask)
        return kl

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
