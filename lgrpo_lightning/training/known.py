"""What is scored before the first update of a rollout."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lgrpo_lightning.policy import Reference
from lgrpo_lightning.training.objective import Objective
from lgrpo_lightning.training.options import Updates
from lgrpo_lightning.training.scoring import Scoring, cut
from lgrpo_lightning.types import TrainBatch


@dataclass(frozen=True, kw_only=True)
class Known:
    """``[N, T]`` each, where it is needed.

    Attributes:
        old: Log-probs of the policy; None where the first forward pass gives them itself.
        ref: Log-probs of the reference.
        entropies: Of the policy.
    """

    old: Tensor | None
    ref: Tensor | None
    entropies: Tensor | None = None

    def cut(self, pack: list[int], micro: TrainBatch) -> Known:
        """The rows of a pack, trimmed to its width; the entropies, which a whole optimizer step needs, left out."""
        return Known(old=cut(self.old, pack, micro), ref=cut(self.ref, pack, micro))


def known_before(
    batch: TrainBatch,
    scoring: Scoring,
    *,
    reference: Reference | None,
    objective: Objective,
    updates: Updates,
) -> Known:
    """Score what the updates need to know. Collective."""
    sampler, masks = updates.old_logprobs == "sampler", objective.top_entropy < 1
    rescored = not (sampler or updates.steps_per_rollout == 1)
    before = scoring.scores(scoring.policy, batch) if masks or rescored else None
    ref = scoring.scores(reference, batch).logprobs if reference and objective.kl_in_loss else None
    own = before.logprobs if before is not None and rescored else None
    return Known(
        old=batch.sampler_logprobs if sampler else own,
        ref=ref,
        entropies=before.entropies if before is not None and masks else None,
    )
