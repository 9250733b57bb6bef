"""Log-probs and entropies of a whole batch without gradients, in passes that all ranks make together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lgrpo_lightning.distributed.activity import note_progress
from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.policy import Policy, Reference
from lgrpo_lightning.policy.policy import TokenScores
from lgrpo_lightning.types import TrainBatch, pad


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


def select_pack(values: Tensor | None, pack: list[int], micro: TrainBatch) -> Tensor | None:
    """The rows of a pack, trimmed to its width."""
    if values is None:
        return None
    return values.index_select(0, torch.tensor(pack, device=values.device))[:, : micro.mask.shape[1]]
