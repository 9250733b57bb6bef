"""From a rollout with its credit to the gradients of optimizer steps. Knows neither the estimator nor the Trainer."""

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
from lgrpo_lightning.images import ImageTokens
from lgrpo_lightning.monitoring.metrics import Means
from lgrpo_lightning.policy import Policy, Reference
from lgrpo_lightning.policy.choice import COUNTS, LayoutChoice, LayoutName
from lgrpo_lightning.policy.policy import TokenScores
from lgrpo_lightning.policy.verification import verify
from lgrpo_lightning.training.batch_scorer import BatchScorer, FixedScores, compute_fixed_scores
from lgrpo_lightning.training.gradient_noise import GradientNoise
from lgrpo_lightning.training.layer_compilation import LayerCompilation
from lgrpo_lightning.training.layout_trial import LayoutTrial
from lgrpo_lightning.training.options import Objective, Updates
from lgrpo_lightning.training.pending_step import PendingStep
from lgrpo_lightning.training.token_loss import EntropyBonus, TokenLoss, select_high_entropy
from lgrpo_lightning.types import LossInput, TrainBatch


def split_into_mini_batches(groups: Sequence[int], trained: Sequence[bool], parts: int) -> list[list[int]]:
    """Rows of each optimizer step: whole groups in order, without those that are dropped.

    Args:
        groups: Number of each row's group.
        trained: Whether each group takes part.
        parts: Optimizer steps that the groups are divided into.

    >>> split_into_mini_batches([0, 0, 1, 1, 2, 2, 3, 3], [True, False, True, True], parts=2)
    [[0, 1], [4, 5, 6, 7]]
    """
    per_step = len(trained) // parts
    rows: list[list[int]] = [[] for _ in range(parts)]
    for row, group in enumerate(groups):
        if trained[group]:
            rows[group // per_step].append(row)
    return rows


@dataclass(frozen=True, kw_only=True)
class Update:
    """The gradients of all optimizer steps of a rollout; built once for a run.

    Attributes:
        reference: The frozen model of the KL term, or None.
        temperature: Of the log-probs: that of sampling.
        max_length: Longest possible completion, for the constant normaliser.
        backward: Called with each micro-batch's loss and whether it is the last of its optimizer step.
        importance, corrects: As in ``TokenLoss``. Without ``corrects`` the sampler's log-probs have to be the policy's
            own.
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
        rows = [row for part in mini_batches for row in part]
        if tokens := sum(len(batch.completions[row]) for row in rows):
            means.put("updates/masked_tokens", tokens - float(batch.mask[rows].sum()), tokens)
        return compute_fixed_scores(
            batch, self.scorer, reference=self.reference, objective=self.objective, updates=self.updates
        )

    def _settle_layout(self, batch: TrainBatch) -> LayoutChoice:
        """The layout of a rollout: checked, and on a GPU timed, on the first one. Collective."""
        prompts, completions = batch.prompts, batch.completions
        trial, policy = self.trial, self.policy
        if not policy.images_verified and any(isinstance(prompt, ImageTokens) for prompt in prompts):
            policy.verified.clear()  # with text alone nothing is said of images
            policy.images_verified = True
        self._share_checks()
        if trial.applies(self.policy) and trial.fastest is None:
            works: list[LayoutName] = []
            for name in COUNTS:
                if name not in self.policy.unsupported:
                    self.policy.take_layout(name, prompts, completions, reason="it is checked")
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
        self.compilation.prepare(
            self.scorer,
            self.reference,
            batch,
            self.backward,
            with_router_loss=self.objective.router_aux_coef > 0,
        )

    def _check_layout(self, batch: TrainBatch) -> bool:
        """Whether log-probs are right in the layout that was taken; one that is not is given up by all ranks."""
        policy = self.policy
        if "padded" not in policy.verified or policy.layout not in policy.verified:
            first = batch.rows(_choose_group(batch))
            verify(
                policy,
                first.prompts,
                first.completions,
                temperature=self.temperature,
                sampled=None if self.importance is None else first.sampler_logprobs.where(first.mask, torch.nan),
                own=self.importance is not None and not self.corrects,
                beside=_shortest_and_longest(batch),
            )
            self._share_checks()
        return policy.layout not in policy.failed

    def _share_checks(self) -> None:
        """Give up the layouts that another rank gave up, a teacher's too, and check again what one has not checked."""
        policy = self.policy
        own = [[float(name in policy.failed), float(name not in policy.verified)] for name in COUNTS]
        anywhere = self.ranks.max(torch.tensor(own, device=policy.device)).tolist()
        for name, (failed, unchecked) in zip(COUNTS, anywhere, strict=True):
            if failed:
                policy.failed.setdefault(name, f"the {name} layout failed its check on another process")
            if unchecked:
                policy.verified.discard(name)

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
        in_loss = self._select_trained(batch, rows, fixed)
        count = self.ranks.sum(in_loss.sum().float()).clamp(min=1)
        entropy_sum = torch.zeros((), device=part.mask.device)
        passes = list(self.scorer.passes(batch, rows))
        noise = GradientNoise(self.policy.parameters() if self.updates.gradient_snr else ())
        losses: list[Tensor] = []
        tokens: dict[int, tuple[Tensor, Tensor]] = {}
        for number, (pack, real) in enumerate(passes):
            micro = batch.rows(pack)
            # a pass that only keeps the ranks in step goes through the same code, and counts no token
            mask = micro.mask if real else torch.zeros_like(micro.mask)
            kept = None if fixed.entropies is None else _take_rows(in_loss, pack, micro)
            scores = self._score(micro)
            terms = self._token_loss(_describe_pass(micro, pack, scores, fixed), kept=kept, mask=mask, means=means)
            loss = aggregate(terms, mask, micro.weights, by=self.loss.normalizer, normalizer=normalizer)
            if self.objective.with_entropy:
                entropy = aggregate(scores.entropies, mask if kept is None else mask & kept, normalizer=count)
                loss, entropy_sum = loss - self.bonus.coefficient * entropy, entropy_sum + entropy.detach()
            if scores.router_loss is not None:
                loss = loss + self._router_term(scores.router_loss, mask.sum(), trained, means)
            self.backward(loss * self.ranks.world_size, number == len(passes) - 1)
            noise.saw(mask.sum())
            losses.append(loss.detach())
            if real:
                tokens.update(zip(pack, zip(terms.detach(), scores.logprobs.detach(), strict=True), strict=True))
        noise.log(means)
        return PendingStep(
            batch=batch, pass_losses=tuple(losses), tokens=tokens, old=fixed.old, ref=fixed.ref, entropy=entropy_sum
        )

    def count_step(self, pending: PendingStep, means: Means) -> None:
        """Log the loss of an optimizer step that is made, and steer the entropy bonus. Collective."""
        means.put("loss", pending.loss * self.ranks.world_size)
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

    def _score(self, micro: TrainBatch) -> TokenScores:
        """Log-probs and entropies of a micro-batch, with gradients."""
        scores: TokenScores = self.policy(
            micro.prompts,
            micro.completions,
            temperature=self.temperature,
            entropy_gradient=self.objective.with_entropy,
            with_router_loss=self.objective.router_aux_coef > 0,
        )
        return scores

    def _router_term(self, value: Tensor, tokens: Tensor, trained: Tensor, means: Means) -> Tensor:
        """A micro-batch's load-balancing loss, by its share of the optimizer step's trained tokens."""
        means.put("router_loss", float(value.detach() * tokens), float(tokens))
        return self.objective.router_aux_coef * value * tokens / trained

    def _select_trained(self, batch: TrainBatch, rows: list[int], fixed: FixedScores) -> Tensor:
        """``[N, T]`` bool: tokens of ``rows`` that the policy loss trains. Collective."""
        taking_part = torch.zeros_like(batch.mask)
        taking_part[rows] = batch.mask[rows]
        if fixed.entropies is None:
            return taking_part
        high = select_high_entropy(fixed.entropies, taking_part, self.objective.top_entropy, self.ranks)
        return taking_part & high


def _describe_pass(micro: TrainBatch, pack: list[int], scores: TokenScores, fixed: FixedScores) -> LossInput:
    """What the policy loss sees of the rows of a pass."""
    old = scores.logprobs.detach() if fixed.old is None else _take_rows(fixed.old, pack, micro)
    return LossInput(
        logprobs=scores.logprobs,
        old_logprobs=old,
        sampler_logprobs=micro.sampler_logprobs,
        ref_logprobs=None if fixed.ref is None else _take_rows(fixed.ref, pack, micro),
        advantages=micro.advantages,
        entropies=scores.entropies,
        mask=micro.mask,
    )


def _take_rows(values: Tensor, pack: list[int], micro: TrainBatch) -> Tensor:
    """The rows of a pack, trimmed to its width."""
    return values.index_select(0, torch.tensor(pack, device=values.device))[:, : micro.mask.shape[1]]


def _choose_group(batch: TrainBatch) -> list[int]:
    """Rows of the first group, or of the first that has images."""
    groups = batch.group_ids.tolist()
    with_images = (n for n, prompt in zip(groups, batch.prompts, strict=True) if isinstance(prompt, ImageTokens))
    chosen = next(with_images, 0)
    return [row for row, number in enumerate(groups) if number == chosen]


def _shortest_and_longest(batch: TrainBatch) -> tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]:
    """Prompts and completions of the shortest and the longest row."""
    order = sorted(range(len(batch)), key=lambda i: len(batch.prompts[i]) + len(batch.completions[i]))
    at = [order[0], order[-1]]
    return [batch.prompts[i] for i in at], [batch.completions[i] for i in at]
