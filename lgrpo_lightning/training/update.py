"""From a rollout with its credit to optimizer steps. Knows no algorithm and no Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lgrpo_lightning.functional import (
    aggregate,
    clipped_surrogate,
    default_normalizer,
    importance_values,
    importance_weights,
    k3_kl,
)
from lgrpo_lightning.functional.importance import ImportanceMode
from lgrpo_lightning.policy import Policy, Reference
from lgrpo_lightning.processes.activity import progressed
from lgrpo_lightning.strategies.ranks import Ranks
from lgrpo_lightning.training.attempt import Attempt, Pass
from lgrpo_lightning.training.metrics import Means, add_clip_metrics
from lgrpo_lightning.training.options import Loss, Updates
from lgrpo_lightning.types import TrainBatch, padded


def _always(attempt: Attempt) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Update:
    """All optimizer steps of one rollout.

    Args:
        policy, reference: The trained model; the frozen one of the KL term, or None.
        loss, updates: Options.
        temperature: Of the log-probs: that of sampling.
        max_length: Longest possible completion, for the constant normaliser.
        importance: Correction for the sampler; with "none" its ratios are only logged. None where it truncates, and
            there is nothing to compare.
        corrects: Whether the correction is applied.
        from_policy: Whether the sampler's log-probs have to be the policy's own.
        ranks: The processes that share each optimizer step.
        backward: Called with each micro-batch's loss and whether it is the last of its optimizer step.
        step: Called after the last one; makes the optimizer step.
        done: Whether the run is over before the next optimizer step.
        allows: Asked after the last backward pass whether the step may be made; a refused one leaves no gradient.
    """

    policy: Policy
    reference: Reference | None
    loss: Loss
    updates: Updates
    temperature: float
    max_length: int
    ranks: Ranks
    backward: Callable[[Tensor, bool], None]
    step: Callable[[], None]
    done: Callable[[], bool]
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
        choice = self.policy.choose_layout(batch.prompts, batch.completions)
        first = batch.rows([i for i, number in enumerate(batch.group_ids.tolist()) if number == 0])
        known = self.importance is not None or self.from_policy
        self.policy.verify(
            first.prompts,
            first.completions,
            temperature=self.temperature,
            sampled=first.sampler_logprobs.where(first.mask, torch.nan) if known else None,
            own=self.from_policy,
        )
        if choice.layout == "tree" and self.policy.no_tree:  # found out just now
            choice = self.policy.choose_layout(batch.prompts, batch.completions)
        means.put("tree/token_ratio", choice.computed, choice.padded)
        old = self._old_logprobs(batch)
        ref = None if self.reference is None else self._logprobs(self.reference, batch)
        for _ in range(self.updates.iterations):
            for rows in mini_batches:
                if self.done():
                    return
                self._optimizer_step(batch, list(rows), old, ref, means)

    def _optimizer_step(
        self, batch: TrainBatch, rows: list[int], old: Tensor | None, ref: Tensor | None, means: Means
    ) -> None:
        part = batch.rows(rows)
        normalizer = self.ranks.sum(
            default_normalizer(part.mask, by=self.loss.normalizer, length=self.max_length).float()
        )
        means.put("updates/skipped", float(normalizer == 0))
        if normalizer == 0:  # no token to learn from, on any rank
            means.put("updates/nonfinite", 0.0)
            return
        passes = list(self._passes(batch, rows))
        made: list[Pass] = []
        for number, (pack, real) in enumerate(passes):
            micro = batch.rows(pack)
            before, reference = _cut(old, pack, micro), _cut(ref, pack, micro)
            mask = micro.mask if real else torch.zeros_like(micro.mask)
            per_token, logprobs = self._token_losses(micro, before, reference, mask, means)
            loss = aggregate(per_token, mask, micro.weights, by=self.loss.normalizer, normalizer=normalizer)
            self.backward(loss * self.ranks.world_size, number == len(passes) - 1)
            values = {"per_token": per_token.detach(), "logprobs": logprobs.detach()}
            made.append(Pass(rows=tuple(pack) if real else (), loss=loss.detach(), **values))
        attempt = Attempt(batch=batch, passes=tuple(made), old=old, ref=ref)
        allowed = self.allows(attempt)
        means.put("updates/nonfinite", float(not allowed))
        if allowed:
            means.put("loss", attempt.loss * self.ranks.world_size)
            self.step()

    def _token_losses(
        self, micro: TrainBatch, old: Tensor | None, ref: Tensor | None, mask: Tensor, means: Means
    ) -> tuple[Tensor, Tensor]:
        """``[N, T]`` loss of every token (the clipped surrogate, plus KL where there is a reference) and log-prob.

        Args:
            mask: Tokens that the metrics count; none of a pass that only keeps the ranks in step.
        """
        scores = self.policy(micro.prompts, micro.completions, temperature=self.temperature)
        old = scores.logprobs.detach() if old is None else old
        clip = {"clip_low": self.loss.clip_low, "clip_high": self.loss.clip_high}
        per_token = clipped_surrogate(scores.logprobs, old, micro.advantages, **clip)
        if self.importance is not None:
            weights = self._importance_weights(micro, old, mask, means, mode=self.importance)
            per_token = per_token * weights if self.corrects and self.importance != "none" else per_token
        if ref is not None:
            kl = k3_kl(scores.logprobs, ref)
            per_token = per_token + self.loss.kl_coef * kl
            means.add("kl", kl, mask)
        means.add("entropy", scores.entropies, mask)
        add_clip_metrics(means, (scores.logprobs - old).exp(), micro.advantages, mask, **clip)
        return per_token, scores.logprobs

    def _importance_weights(
        self, micro: TrainBatch, old: Tensor, mask: Tensor, means: Means, *, mode: ImportanceMode
    ) -> Tensor:
        """``[N, T]`` factor that corrects the surrogate for the sampler; logged under TRL's names."""
        loss, sampler = self.loss, micro.sampler_logprobs
        bounds = {"maximum": loss.importance_max, "minimum": loss.importance_min}
        if mode == "none":  # nothing is corrected: the bare ratio of every token
            mode, bounds = "token_mask", {"maximum": None, "minimum": None}
        weights = importance_weights(old, sampler, micro.mask, mode=mode, **bounds)
        for name, values in importance_values(old, sampler, weights, mask, mode=mode).items():
            means.add(f"{name}/mean", values)
            if values.numel():
                means.extreme(f"{name}/max", values.max(), largest=True)
                if name.endswith("ratio"):
                    means.extreme(f"{name}/min", values.min(), largest=False)
        return weights

    def _passes(self, batch: TrainBatch, rows: list[int]) -> Iterator[tuple[list[int], bool]]:
        """(rows of a forward pass, whether they count): as many passes on every rank, filled up with dummies."""
        packs = self.policy.packs([batch.prompts[i] for i in rows], [batch.completions[i] for i in rows])
        count = torch.tensor(len(packs), device=batch.mask.device)
        most = int(self.ranks.max(count))  # before any pass: collective
        for number in range(most):
            progressed()
            yield ([rows[i] for i in packs[number]], True) if number < len(packs) else ([0], False)

    def _old_logprobs(self, batch: TrainBatch) -> Tensor | None:
        """``[N, T]`` log-probs before the update; None where the first forward pass gives them itself."""
        if self.updates.old_logprobs == "sampler":
            return batch.sampler_logprobs
        return None if self.updates.steps_per_rollout == 1 else self._logprobs(self.policy, batch)

    @torch.no_grad()
    def _logprobs(self, policy: Policy | Reference, batch: TrainBatch) -> Tensor:
        """``[N, T]`` log-probs of the whole batch without gradients, in the packing of the update."""
        rows: dict[int, Tensor] = {}
        for pack, real in self._passes(batch, list(range(len(batch)))):
            micro = batch.rows(pack)
            scores = policy(micro.prompts, micro.completions, temperature=self.temperature)
            if real:
                rows.update(zip(pack, scores.logprobs, strict=True))
        return padded([rows[i] for i in range(len(batch))], batch.mask.shape[1])


def _cut(values: Tensor | None, pack: list[int], micro: TrainBatch) -> Tensor | None:
    """The rows of a pack, trimmed to its width."""
    if values is None:
        return None
    return values.index_select(0, torch.tensor(pack, device=values.device))[:, : micro.mask.shape[1]]


def mini_batches(trained: Sequence[bool], group_size: int, parts: int) -> list[list[int]]:
    """Rows of each optimizer step: whole groups in order, without those that are dropped.

    Args:
        trained: Whether each group takes part.
        parts: Optimizer steps that the groups are divided into.

    >>> mini_batches([True, False, True, True], group_size=2, parts=2)
    [[0, 1], [4, 5, 6, 7]]
    """
    per_step = len(trained) // parts
    rows: list[list[int]] = [[] for _ in range(parts)]
    for group, kept in enumerate(trained):
        if kept:
            rows[group // per_step] += range(group * group_size, (group + 1) * group_size)
    return rows
