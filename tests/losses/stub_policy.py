"""An update whose policy gives the log-probs and entropies that a test wrote down."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.functional.importance import ImportanceMode
from lgrpo_lightning.functional.vocabulary import Vocabulary
from lgrpo_lightning.monitoring.metrics import Means
from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.policy.policy import TokenScores
from lgrpo_lightning.training import Objective, Updates
from lgrpo_lightning.training.token_loss import EntropyBonus
from lgrpo_lightning.training.update import Update
from lgrpo_lightning.types import TrainBatch
from tests.updates import run_update

LONGEST = 11
"""Longest possible completion, for the constant normaliser."""


@dataclass
class Case:
    """``[N, T]`` of everything, and ``[N]`` or ``[N, T]`` advantages."""

    logprobs: Tensor
    entropies: Tensor
    old: Tensor
    ref: Tensor
    sampler: Tensor
    advantages: Tensor
    mask: Tensor
    lengths: list[int]

    @property
    def worth(self) -> Tensor:
        """``[N, T]`` advantages."""
        a = self.advantages
        return a[:, None].expand_as(self.mask) if a.dim() == 1 else a

    def batch(self, weights: Tensor | None = None) -> TrainBatch:
        """What an update is given; a row is known by its first token."""
        return TrainBatch(
            prompts=((0,),) * len(self.lengths),
            completions=tuple((i,) * n for i, n in enumerate(self.lengths)),
            group_ids=torch.arange(len(self.lengths)) // 4,
            advantages=self.worth,
            weights=torch.ones_like(self.worth) if weights is None else weights,
            mask=self.mask,
            sampler_logprobs=self.sampler,
        )


def drawn(
    shape: str = "ragged",
    *,
    far: float = 0.4,
    seed: int = 0,
    rows: int = 12,
    width: int = 7,
    of_tokens: bool = False,
) -> Case:
    """Random numbers. ``shape``: "full" rows; "ragged" ones; "holes", where some tokens inside are not trained.

    Args:
        of_tokens: Whether each token has an advantage of its own.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(rows, width, generator=generator)

    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    lengths[0] = width
    if shape == "full":
        lengths[:] = width
    real = torch.arange(width) < lengths[:, None]
    trained = real & (torch.rand(rows, width, generator=generator) > 0.3) if shape == "holes" else real
    trained[:, 0] = True
    logprobs = -3 * torch.rand(rows, width, generator=generator)
    old = logprobs + noise(far)
    advantages = torch.randn(rows, generator=generator)
    advantages[3] = 0.0
    if of_tokens:
        advantages = advantages[:, None] + noise(1.0)
    return Case(
        logprobs=logprobs.requires_grad_(),
        entropies=(2 * torch.rand(rows, width, generator=generator)).requires_grad_(),
        old=old,
        ref=logprobs.detach() + noise(0.4),
        sampler=old + noise(0.3),
        advantages=advantages,
        mask=trained,
        lengths=lengths.tolist(),
    )


class StubPolicy:
    """Gives what was written down: with gradients the log-probs of now, without those of before the update."""

    config = PolicyConfig()
    failed: dict[str, str] = {}
    verified = {"padded"}
    images_verified = True
    layout = "padded"
    device = torch.device("cpu")
    vocabulary = Vocabulary(total=1, size=1)  # every id may be drawn

    def __init__(self, case: Case, rows: int, *, reference: bool = False) -> None:
        self.case, self.per_pass, self.reference = case, rows, reference

    def choose_layout(self, prompts: Any, completions: Any, total: Any = None) -> Any:
        return SimpleNamespace(layout="padded", computed=1, padded=1)

    def divide_rows(self, prompts: Any, completions: Any) -> list[list[int]]:
        rows = list(range(len(completions)))
        return [rows[i : i + self.per_pass] for i in range(0, len(rows), self.per_pass)]

    def __call__(self, prompts: Any, completions: Any, **kwargs: Any) -> TokenScores:
        at = torch.tensor([c[0] for c in completions])
        width = max(map(len, completions))
        logprobs = self.case.logprobs if torch.is_grad_enabled() else self.case.old
        if self.reference:
            logprobs = self.case.ref
        entropies = self.case.entropies if kwargs.get("entropy_gradient") else self.case.entropies.detach()
        return TokenScores(
            logprobs=logprobs.index_select(0, at)[:, :width],
            entropies=entropies.index_select(0, at)[:, :width],
        )


def updated(
    case: Case,
    loss: PolicyLoss,
    objective: Objective | None = None,
    *,
    bonus: EntropyBonus | None = None,
    importance: ImportanceMode | None = "none",
    off_policy: bool = True,
    per_pass: int = 5,
    weights: Tensor | None = None,
    ranks: Ranks | None = None,
    rows: list[int] | None = None,
) -> tuple[dict[str, float], Tensor, Tensor]:
    """(metrics, gradient of the log-probs, of the entropies) of one optimizer step.

    Args:
        off_policy: Old log-probs are those written down; else those of now.
        per_pass: Rows of a micro-batch.
    """
    objective = objective or Objective()
    case.logprobs.grad = case.entropies.grad = None
    means = Means()
    run_update(
        Update(
            policy=StubPolicy(case, per_pass),  # type: ignore[arg-type]
            reference=StubPolicy(case, per_pass, reference=True),
            loss=loss,
            objective=objective,
            bonus=bonus or EntropyBonus(objective),
            updates=Updates(mini_batches=2 if off_policy else 1),  # one of them is made
            temperature=1.0,
            max_length=LONGEST,
            ranks=ranks or Ranks(),
            backward=lambda value, last: value.backward(),  # type: ignore[no-untyped-call]
            importance=importance,
        ),
        case.batch(weights),
        [rows or list(range(len(case.lengths)))],
        means,
    )
    nothing = torch.zeros_like(case.logprobs)
    found = [nothing if x.grad is None else x.grad.clone() for x in (case.logprobs, case.entropies)]
    return means.values(), found[0], found[1]
