"""Scores that stay fixed while a rollout is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lgrpo_lightning.policy import Reference
from lgrpo_lightning.training.batch_scorer import BatchScorer, select_pack
from lgrpo_lightning.training.objective import Objective
from lgrpo_lightning.training.options import Updates
from lgrpo_lightning.types import TrainBatch


@dataclass(frozen=True, kw_only=True)
class FixedScores:
    """``[N, T]`` each, or None where it is not needed.

    Attributes:
        old: Log-probs of the policy before the first optimizer step; None where the first forward pass gives them.
        ref: Log-probs of the reference.
        entropies: Of the policy before the first optimizer step.
    """

    old: Tensor | None
    ref: Tensor | None
    entropies: Tensor | None = None

    def select(self, pack: list[int], micro: TrainBatch) -> FixedScores:
        """The log-probs of the rows of a pack, trimmed to its width."""
        return FixedScores(old=select_pack(self.old, pack, micro), ref=select_pack(self.ref, pack, micro))


def compute_fixed_scores(
    batch: TrainBatch,
    scorer: BatchScorer,
    *,
    reference: Reference | None,
    objective: Objective,
    updates: Updates,
) -> FixedScores:
    """Score a batch before its first optimizer step. Collective."""
    from_sampler, with_entropies = updates.old_logprobs == "sampler", objective.top_entropy < 1
    rescore = not (from_sampler or updates.steps_per_rollout == 1)
    before = scorer.score(scorer.policy, batch) if with_entropies or rescore else None
    ref = scorer.score(reference, batch).logprobs if reference and objective.kl_in_loss else None
    own = before.logprobs if before is not None and rescore else None
    return FixedScores(
        old=batch.sampler_logprobs if from_sampler else own,
        ref=ref,
        entropies=before.entropies if before is not None and with_entropies else None,
    )
