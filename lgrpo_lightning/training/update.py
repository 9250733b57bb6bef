"""From a rollout with its credit to optimizer steps. Knows no algorithm and no Trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.functional import aggregate, default_normalizer
from lgrpo_lightning.functional.importance import ImportanceMode
from lgrpo_lightning.policy import Policy, Reference
from lgrpo_lightning.training.attempt import Attempt, Pass
from lgrpo_lightning.training.entropy_bonus import EntropyBonus
from lgrpo_lightning.training.gradient_noise import GradientNoise
from lgrpo_lightning.training.known import Known, known_before
from lgrpo_lightning.training.metrics import Means
from lgrpo_lightning.training.mini_batches import count_masked, selected
from lgrpo_lightning.training.objective import Objective
from lgrpo_lightning.training.options import Updates
from lgrpo_lightning.training.scored_pass import ScoredPass
from lgrpo_lightning.training.scoring import Scoring, cut
from lgrpo_lightning.training.undecided import undecided
from lgrpo_lightning.types import TrainBatch


def extremes(batch: TrainBatch) -> tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]]:
    """Prompts and completions of the shortest and the longest row."""
    order = sorted(range(len(batch)), key=lambda i: len(batch.prompts[i]) + len(batch.completions[i]))
    at = [order[0], order[-1]]
    return [batch.prompts[i] for i in at], [batch.completions[i] for i in at]


def _always(attempt: Attempt) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Update:
    """All optimizer steps of one rollout.

    Args:
        policy, reference: The trained model; the frozen one of the KL term, or None.
        loss: The policy loss.
        objective, updates: Options.
        bonus: Weight of the entropy bonus.
        temperature: Of the log-probs: that of sampling.
        max_length: Longest possible completion, for the constant normaliser.
        importance: Correction for the sampler; with "none" its ratios are only logged. None where it truncates, and
            there is nothing to compare.
        corrects: Whether the correction is applied.
        from_policy: Whether the sampler's log-probs have to be the policy's own.
        ranks: The processes that share each optimizer step.
        backward: Called with each micro-batch's loss and whether it is the last of its optimizer step.
        step: Called after the last one; makes the optimizer step.
        allows: Asked after the last backward pass whether the step may be made; a refused one leaves no gradient.
    """

    policy: Policy
    reference: Reference | None
    loss: PolicyLoss
    objective: Objective
    updates: Updates
    bonus: EntropyBonus
    temperature: float
    max_length: int
    ranks: Ranks
    backward: Callable[[Tensor, bool], None]
    step: Callable[[], None]
    importance: ImportanceMode | None = None
    corrects: bool = True
    from_policy: bool = False
    allows: Callable[[Attempt], bool] = _always

    def run(self, batch: TrainBatch, mini_batches: Sequence[Sequence[int]], means: Means) -> None:
        """Update on ``batch``.

        Args:
            mini_batches: Rows of each optimizer step; as many of them on every rank.
            means: Receives the metrics.
        """
        self.policy.vocabulary.check(batch.trained_ids)
        choice = self.policy.choose_layout(batch.prompts, batch.completions)
        first = batch.rows([i for i, number in enumerate(batch.group_ids.tolist()) if number == 0])
        comparable = self.importance is not None or self.from_policy
        self.policy.verify(
            first.prompts,
            first.completions,
            temperature=self.temperature,
            sampled=first.sampler_logprobs.where(first.mask, torch.nan) if comparable else None,
            own=self.from_policy,
            beside=extremes(batch),
        )
        if choice.layout == "tree" and self.policy.no_tree:  # found out just now
            choice = self.policy.choose_layout(batch.prompts, batch.completions)
        means.put("tree/token_ratio", choice.computed, choice.padded)
        count_masked(batch, mini_batches, means)
        known = self._scored(batch)
        for _ in range(self.updates.iterations):
            for rows in mini_batches:
                self._optimizer_step(batch, list(rows), known, means)

    def _scored(self, batch: TrainBatch) -> Known:
        scoring = Scoring(policy=self.policy, ranks=self.ranks, temperature=self.temperature)
        return known_before(
            batch, scoring, reference=self.reference, objective=self.objective, updates=self.updates
        )

    def _optimizer_step(self, batch: TrainBatch, rows: list[int], known: Known, means: Means) -> None:
        part = batch.rows(rows)
        normalizer = self.ranks.sum(
            default_normalizer(part.mask, by=self.loss.normalizer, length=self.max_length).float()
        )
        trained = self.ranks.sum(part.mask.sum().float())
        means.put("updates/skipped", float(trained == 0))
        if trained == 0:  # no token to learn from, on any rank
            means.put("updates/nonfinite", 0.0)
            return
        kept = self._undecided(batch, rows, known)
        count = self.ranks.sum(selected(kept, batch.mask, rows).sum().float()).clamp(min=1)
        spread = torch.zeros((), device=part.mask.device)
        passes = list(
            Scoring(policy=self.policy, ranks=self.ranks, temperature=self.temperature).passes(batch, rows)
        )
        scored_pass = ScoredPass(
            policy=self.policy,
            loss=self.loss,
            objective=self.objective,
            temperature=self.temperature,
            importance=self.importance,
            corrects=self.corrects,
        )
        noise = GradientNoise(self.policy.parameters()) if self.updates.gradient_snr else None
        made: list[Pass] = []
        for number, (pack, real) in enumerate(passes):
            micro = batch.rows(pack)
            mask = micro.mask if real else torch.zeros_like(micro.mask)
            given = known.cut(pack, micro)
            here = cut(kept, pack, micro)
            scores, per_token = scored_pass(micro, given, here, mask, means)
            loss = aggregate(per_token, mask, micro.weights, by=self.loss.normalizer, normalizer=normalizer)
            if self.objective.with_entropy:
                entropy = aggregate(scores.entropies, mask if here is None else mask & here, normalizer=count)
                loss, spread = loss - self.bonus.coefficient * entropy, spread + entropy.detach()
            if scores.router_loss is not None:
                loss = loss + scored_pass.router(scores.router_loss, mask.sum(), trained, means)
            self.backward(loss * self.ranks.world_size, number == len(passes) - 1)
            if noise is not None:
                noise.saw(float(mask.sum()))
            values = {"per_token": per_token.detach(), "logprobs": scores.logprobs.detach()}
            made.append(Pass(rows=tuple(pack) if real else (), loss=loss.detach(), **values))
        if noise is not None and noise.ratio == noise.ratio:
            means.put("gradient_snr", noise.ratio)
        attempt = Attempt(batch=batch, passes=tuple(made), old=known.old, ref=known.ref)
        allowed = self.allows(attempt)
        means.put("updates/nonfinite", float(not allowed))
        if allowed:
            means.put("loss", attempt.loss * self.ranks.world_size)
            self.step()
            self._steer(spread, means)

    def _undecided(self, batch: TrainBatch, rows: list[int], known: Known) -> Tensor | None:
        """``[N, T]`` bool: tokens that the policy loss of this optimizer step trains; None: all."""
        if known.entropies is None:
            return None
        taking_part = selected(None, batch.mask, rows)
        return undecided(known.entropies, taking_part, self.objective.top_entropy, self.ranks)

    def _steer(self, spread: Tensor, means: Means) -> None:
        """Tell the bonus what entropy the optimizer step had."""
        if self.objective.with_entropy:
            means.put("entropy_coef", self.bonus.coefficient)
            self.bonus.saw(float(self.ranks.sum(spread)))
