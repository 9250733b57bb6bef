"""The KL penalty as a part of the reward, as in PPO for language models (arXiv:2009.01325)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lgrpo_lightning.functional import kl_estimate
from lgrpo_lightning.policy import Reference
from lgrpo_lightning.rollouts.refill import ScoredGroups
from lgrpo_lightning.training.batch_scorer import BatchScorer
from lgrpo_lightning.types import Credit, Group, Rewards, TrainBatch


def subtract_kl_penalty(
    scored: ScoredGroups, reference: Reference, scorer: BatchScorer, coefficient: float
) -> list[Rewards]:
    r"""Rewards whose outcomes are less by the coefficient times the completion's log π/π_ref. Collective.

    .. math:: r_i - \beta \sum_t \log \frac{\pi(y_{i,t})}{\pi_{ref}(y_{i,t})}

    with the policy before the update, over trained tokens, as padded rows: other layouts are verified later, and a
    resumed run has to score as the run before. What does not apply still does not; the parts of a reward stay as they
    were.
    """
    groups = scored.groups
    batch = TrainBatch.from_groups(groups, [_none(g) for g in groups], device=scorer.policy.device)
    scorer.policy.choice = None
    now, before = (scorer.score(who, batch).logprobs for who in (scorer.policy, reference))
    kl = torch.where(batch.mask, kl_estimate(now, before, estimator="k1"), 0.0).cpu()
    counts = batch.mask.sum(-1).cpu()
    out, start = [], 0
    for group, given in zip(groups, scored.rewards, strict=True):
        end = start + len(group)
        own, tokens = kl[start:end].sum(-1), int(counts[start:end].sum())
        metrics = {**given.metrics, "kl": float(own.sum()) / max(tokens, 1)}
        out.append(replace(given, outcome=_less(given.outcome, coefficient * own), metrics=metrics))
        start = end
    return out


def _less(outcome: Tensor, penalty: Tensor) -> Tensor:
    return (outcome.double() - penalty.double()).float()


def _none(group: Group) -> Credit:
    """Credit of the group's shape, for a batch that is only scored."""
    nothing = torch.zeros(len(group), max((len(r) for r in group.completions), default=0))
    return Credit(advantages=nothing, weights=nothing)
