"""Log-probs and entropies of a whole batch without gradients: before an update, and of the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lgrpo_lightning.distributed.activity import note_progress
from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.functional import kl_estimate
from lgrpo_lightning.policy import Policy, Reference
from lgrpo_lightning.policy.policy import TokenScores
from lgrpo_lightning.rollouts.refill import ScoredGroups
from lgrpo_lightning.training.options import Objective, Updates
from lgrpo_lightning.types import Rewards, TrainBatch, pad


@dataclass(frozen=True, kw_only=True)
class BatchScorer:
    """Divides a batch into forward passes (micro-batches), and scores it.

    Attributes:
        policy: Says what fits into a pass.
        ranks: The processes that make as many passes.
        temperature: Of the log-probs: that of sampling.
    """

    policy: Policy
    ranks: Ranks
    temperature: float

    def passes(self, batch: TrainBatch, rows: list[int]) -> Iterator[tuple[list[int], bool]]:
        """(rows of a forward pass, whether they count): as many passes on every rank, filled up with dummies."""
        packs = self.policy.divide_rows([batch.prompts[i] for i in rows], [batch.completions[i] for i in rows])
        count = torch.tensor(len(packs), device=batch.mask.device)
        most = int(self.ranks.max(count))  # collective, so before any pass
        for number in range(most):
            note_progress()
            yield ([rows[i] for i in packs[number]], True) if number < len(packs) else ([0], False)

    @torch.no_grad()
    def score(self, policy: Policy | Reference, batch: TrainBatch) -> TokenScores:
        """``[N, T]`` of the whole batch, in the packing of the update."""
        if isinstance(policy, Policy):
            policy.choice = self.policy.choice  # a pass is made for the memory that this layout needs
        rows: dict[int, tuple[Tensor, Tensor]] = {}
        for pack, real in self.passes(batch, list(range(len(batch)))):
            micro = batch.rows(pack)
            scores = policy(micro.prompts, micro.completions, temperature=self.temperature)
            if real:
                rows.update(zip(pack, zip(scores.logprobs, scores.entropies, strict=True), strict=True))
        logprobs, entropies = ([rows[i][part] for i in range(len(batch))] for part in (0, 1))
        width = batch.mask.shape[1]
        return TokenScores(logprobs=pad(logprobs, width), entropies=pad(entropies, width))


@dataclass(frozen=True, kw_only=True)
class FixedScores:
    """What stays fixed while a rollout is trained on: ``[N, T]`` each, or None where it is not needed.

    Attributes:
        old: Log-probs of the policy before the first optimizer step; None where the first forward pass gives them.
        ref: Log-probs of the reference.
        entropies: Of the policy before the first optimizer step.
    """

    old: Tensor | None
    ref: Tensor | None
    entropies: Tensor | None


def compute_fixed_scores(
    batch: TrainBatch, scorer: BatchScorer, *, reference: Reference | None, objective: Objective, updates: Updates
) -> FixedScores:
    """Score a batch before its first optimizer step. Collective."""
    from_sampler, with_entropies = updates.old_logprobs == "sampler", objective.top_entropy < 1
    rescore = not (from_sampler or updates.steps_per_rollout == 1)
    before = scorer.score(scorer.policy, batch) if with_entropies or rescore else None
    own = before.logprobs if before is not None and rescore else None
    return FixedScores(
        old=batch.sampler_logprobs if from_sampler else own,
        ref=scorer.score(reference, batch).logprobs if reference and objective.kl_in_loss else None,
        entropies=before.entropies if before is not None and with_entropies else None,
    )


def subtract_kl_penalty(
    scored: ScoredGroups, reference: Reference, scorer: BatchScorer, coefficient: float
) -> list[Rewards]:
    r"""Rewards less a KL penalty, as in PPO for language models (arXiv:2009.01325). Collective.

    .. math:: r_i - \beta \sum_t \log \frac{\pi(y_{i,t})}{\pi_{ref}(y_{i,t})}

    with the policy before the update, over trained tokens, as padded rows: other layouts are verified later, and a
    resumed run has to score as the run before. What does not apply still does not; the parts of a reward stay as they
    were.
    """
    batch = TrainBatch.from_groups(scored.groups, scored.zero_credits, device=scorer.policy.device)
    scorer.policy.choice = None
    now, before = (scorer.score(who, batch).logprobs for who in (scorer.policy, reference))
    penalties = torch.where(batch.mask, kl_estimate(now, before, estimator="k1"), 0.0).cpu().sum(-1)
    sizes = [len(group) for group in scored.groups]
    tokens = [int(mask.sum()) for mask in torch.split(batch.mask.cpu(), sizes)]
    return [
        replace(
            given,
            outcome=(given.outcome.double() - (coefficient * penalty).double()).float(),
            metrics={**given.metrics, "kl": float(penalty.sum()) / max(count, 1)},
        )
        for given, penalty, count in zip(scored.rewards, torch.split(penalties, sizes), tokens, strict=True)
    ]
