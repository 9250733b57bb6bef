"""From a rollout with its credit to optimizer steps. Knows neither the estimator nor the Trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.functional import aggregate, default_normalizer
from lgrpo_lightning.functional.importance import ImportanceMode
from lgrpo_lightning.monitoring.metrics import Means
from lgrpo_lightning.policy import Policy, Reference
from lgrpo_lightning.policy.choice import COUNTS, LayoutChoice, LayoutName
from lgrpo_lightning.policy.policy import TokenScores
from lgrpo_lightning.policy.verification import verify
from lgrpo_lightning.training.batch_scorer import BatchScorer, select_pack
from lgrpo_lightning.training.entropy_bonus import EntropyBonus
from lgrpo_lightning.training.fixed_scores import FixedScores, compute_fixed_scores
from lgrpo_lightning.training.gradient_noise import GradientNoise
from lgrpo_lightning.training.high_entropy import select_high_entropy
from lgrpo_lightning.training.layer_compilation import LayerCompilation
from lgrpo_lightning.training.layout_trial import LayoutTrial
from lgrpo_lightning.training.mini_batches import count_masked, select_rows
from lgrpo_lightning.training.objective import Objective
from lgrpo_lightning.training.options import Updates
from lgrpo_lightning.training.pending_step import MicroBatchResult, PendingStep
from lgrpo_lightning.training.token_loss import TokenLoss
from lgrpo_lightning.types import LossInput, TrainBatch


@dataclass(frozen=True, kw_only=True)
class Update:
    """All optimizer steps of a rollout; built once for a run.

    Args:
        policy, reference: The trained model; the frozen one of the KL term, or None.
        loss: The policy loss.
        objective, updates: Options.
        bonus: Weight of the entropy bonus.
        temperature: Of the log-probs: that of sampling.
        max_length: Longest possible completion, for the constant normaliser.
        ranks: The processes that share each optimizer step.
        backward: Called with each micro-batch's loss and whether it is the last of its optimizer step.
        step: Makes the optimizer step.
        importance: Correction for the sampler; with "none" its ratios are only logged. None where it truncates, and
            there is nothing to compare.
        corrects: Whether the correction is applied; without it the sampler's log-probs have to be the policy's own.
        trial: Which layout was fastest, where that is timed.
        compilation: For which layouts the layers are compiled.
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
    trial: LayoutTrial = field(default_factory=LayoutTrial)
    compilation: LayerCompilation = field(default_factory=LayerCompilation)

    def prepare(self, batch: TrainBatch, mini_batches: Sequence[Sequence[int]], means: Means) -> FixedScores:
        """Choose and verify the layout, and compute what stays fixed for all optimizer steps of a rollout. Collective.

        Args:
            mini_batches: Rows of each optimizer step; as many of them on every rank.
            means: Receives the metrics.
        """
        self.policy.vocabulary.check(batch.trained_ids)
        choice = self._settle_layout(batch)
        self._compile_layers(batch)
        means.put("tree/token_ratio", choice.computed, choice.padded)
        count_masked(batch, mini_batches, means)
        return compute_fixed_scores(
            batch, self.scorer, reference=self.reference, objective=self.objective, updates=self.updates
        )

    def _settle_layout(self, batch: TrainBatch) -> LayoutChoice:
        """The layout of a rollout: checked, and on a GPU timed, on the first one. Collective."""
        prompts, completions = batch.prompts, batch.completions
        trial = self.trial
        if trial.applies(self.policy) and trial.fastest is None:
            works: list[LayoutName] = []
            for name in COUNTS:
                if name not in self.policy.unsupported:
                    self.policy.take_layout(name, prompts, completions, reason="it is checked")
                    self.policy.verified = False  # each has a check of its own
                    works += [name] if self._check_layout(batch) else []
            for name in works:
                self.policy.take_layout(name, prompts, completions, reason="it is compiled")
                self._compile_layers(batch)
            trial.decide(self.scorer, batch, works, self.backward)
        if trial.applies(self.policy) and trial.fastest is not None and trial.fastest not in self.policy.unsupported:
            choice = self.policy.take_layout(trial.fastest, prompts, completions, reason=trial.reason)
            if self._check_layout(batch):
                return choice
        while True:
            choice = self.policy.choose_layout(prompts, completions, self.ranks.sum)
            if self._check_layout(batch):
                return choice

    def _compile_layers(self, batch: TrainBatch) -> None:
        """Compile the layers for the layout that was taken, where that is wanted. Collective."""
        self.compilation.prepare(self.scorer, self.reference, batch, self.backward)

    def _check_layout(self, batch: TrainBatch) -> bool:
        """Whether log-probs are right in the layout that was taken; one that is not is given up by all ranks."""
        policy = self.policy
        if policy.verified:
            return True
        first = batch.rows([i for i, number in enumerate(batch.group_ids.tolist()) if number == 0])
        verify(
            policy,
            first.prompts,
            first.completions,
            temperature=self.temperature,
            sampled=None if self.importance is None else first.sampler_logprobs.where(first.mask, torch.nan),
            own=self.importance is not None and not self.corrects,
            beside=_shortest_and_longest(batch),
        )
        layout = policy.layout
        if not self.ranks.max(torch.tensor(float(layout in policy.failed), device=policy.device)):
            return True
        policy.failed.setdefault(layout, f"the {layout} layout failed its check on another process")
        policy.verified = False
        return False

    def accumulate(self, batch: TrainBatch, rows: list[int], fixed: FixedScores, means: Means) -> PendingStep | None:
        """The gradient of one optimizer step, micro-batch by micro-batch; None without a trained token. Collective.

        The normaliser is that of the whole optimizer step, on all ranks: micro-batches change nothing.
        """
        part = batch.rows(rows)
        normalizer = self.ranks.sum(
            default_normalizer(part.mask, by=self.loss.normalizer, length=self.max_length).float()
        )
        trained = self.ranks.sum(part.mask.sum().float())
        means.put("updates/skipped", float(trained == 0))
        if trained == 0:  # on any rank
            means.put("updates/nonfinite", 0.0)
            return None
        chosen = self._choose_tokens(batch, rows, fixed)
        count = self.ranks.sum(select_rows(chosen, batch.mask, rows).sum().float()).clamp(min=1)
        entropy_sum = torch.zeros((), device=part.mask.device)
        passes = list(self.scorer.passes(batch, rows))
        noise = GradientNoise(self.policy.parameters()) if self.updates.gradient_snr else None
        results: list[MicroBatchResult] = []
        for number, (pack, real) in enumerate(passes):
            micro = batch.rows(pack)
            # a pass that only keeps the ranks in step goes through the same code, and counts no token
            mask = micro.mask if real else torch.zeros_like(micro.mask)
            here = select_pack(chosen, pack, micro)
            scores, terms = self._score(micro, fixed.select(pack, micro), here, mask, means)
            loss = aggregate(terms, mask, micro.weights, by=self.loss.normalizer, normalizer=normalizer)
            if self.objective.with_entropy:
                entropy = aggregate(scores.entropies, mask if here is None else mask & here, normalizer=count)
                loss, entropy_sum = loss - self.bonus.coefficient * entropy, entropy_sum + entropy.detach()
            if scores.router_loss is not None:
                loss = loss + self._router_term(scores.router_loss, mask.sum(), trained, means)
            self.backward(loss * self.ranks.world_size, number == len(passes) - 1)
            if noise is not None:
                noise.saw(float(mask.sum()))
            values = {"per_token": terms.detach(), "logprobs": scores.logprobs.detach()}
            results.append(MicroBatchResult(rows=tuple(pack) if real else (), loss=loss.detach(), **values))
        if noise is not None and noise.ratio == noise.ratio:
            means.put("gradient_snr", noise.ratio)
        return PendingStep(batch=batch, passes=tuple(results), old=fixed.old, ref=fixed.ref, entropy=entropy_sum)

    def commit(self, pending: PendingStep, means: Means) -> None:
        """Make the optimizer step, and steer the entropy bonus."""
        means.put("loss", pending.loss * self.ranks.world_size)
        self.step()
        if self.objective.with_entropy:
            means.put("entropy_coef", self.bonus.coefficient)
            self.bonus.saw(float(self.ranks.sum(pending.entropy)))

    @cached_property
    def scorer(self) -> BatchScorer:
        """Divides batches into forward passes, and scores them."""
        return BatchScorer(policy=self.policy, ranks=self.ranks, temperature=self.temperature)

    @cached_property
    def _token_loss(self) -> TokenLoss:
        return TokenLoss(loss=self.loss, objective=self.objective, importance=self.importance, corrects=self.corrects)

    def _score(
        self, micro: TrainBatch, fixed: FixedScores, chosen: Tensor | None, mask: Tensor, means: Means
    ) -> tuple[TokenScores, Tensor]:
        """(log-probs and entropies, ``[N, T]`` loss of every token) of a micro-batch."""
        scores = self.policy(
            micro.prompts,
            micro.completions,
            temperature=self.temperature,
            entropy_gradient=self.objective.with_entropy,
            with_router_loss=self.objective.router_aux_coef > 0,
        )
        given = LossInput(
            logprobs=scores.logprobs,
            old_logprobs=scores.logprobs.detach() if fixed.old is None else fixed.old,
            sampler_logprobs=micro.sampler_logprobs,
            ref_logprobs=fixed.ref,
            advantages=micro.advantages,
            entropies=scores.entropies,
            mask=micro.mask,
        )
        return scores, self._token_loss(given, kept=chosen, mask=mask, means=means)

    def _router_term(self, value: Tensor, tokens: Tensor, trained: Tensor, means: Means) -> Tensor:
        """A micro-batch's load-balancing loss, by its share of the optimizer step's trained tokens."""
        means.put("router_loss", float(value.detach() * tokens), float(tokens))
        return self.objective.router_aux_coef * value * tokens / trained

    def _choose_tokens(self, batch: TrainBatch, rows: list[int], fixed: FixedScores) -> Tensor | None:
        """``[N, T]`` bool: tokens that the policy loss of this optimizer step trains; None: all."""
        if fixed.entropies is None:
            return None
        taking_part = select_rows(None, batch.mask, rows)
        return select_high_entropy(fixed.entropies, taking_part, self.objective.top_entropy, self.ranks)


def _shortest_and_longest(
    batch: TrainBatch,
) -> tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]]:
    """Prompts and completions of the shortest and the longest row."""
    order = sorted(range(len(batch)), key=lambda i: len(batch.prompts[i]) + len(batch.completions[i]))
    at = [order[0], order[-1]]
    return [batch.prompts[i] for i in at], [batch.completions[i] for i in at]
