"""What is not finite in an optimizer step, why that may be, and the batch that caused it on disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.whole_files import whole_file
from lgrpo_lightning.training.pending_step import PendingStep
from lgrpo_lightning.types import Rollout


class NonFiniteError(UserError):
    """A loss, gradient or weight is not finite; the message says which, where the batch is and what to change."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one rank found; plain values.

    Attributes:
        rank: Which one.
        loss: Its loss.
        rows: Offending rows of its batch, and ``uids`` their prompts.
        inputs: Which of a row's inputs are not finite: "advantages", "old_logprobs", …
        gradients, weights: Names of parameters whose gradient or value is not finite, as far as this rank holds them.
    """

    rank: int
    loss: float
    rows: list[int]
    uids: list[str]
    inputs: list[str]
    gradients: list[str]
    weights: list[str]

    @classmethod
    def of(cls, pending: PendingStep, rollout: Rollout, policy: nn.Module, *, rank: int) -> Finding:
        """Look at everything that the step was made of."""
        uids, rows = _uids(rollout), pending.offending()
        taken = pending.rows
        inputs = {
            "advantages": pending.batch.advantages,
            "weights": pending.batch.weights,
            "old_logprobs": pending.old,
            "ref_logprobs": pending.ref,
        }
        named = [(n, p) for n, p in policy.named_parameters() if p.requires_grad]
        return cls(
            rank=rank,
            loss=pending.loss,
            rows=rows,
            uids=[uids[row] for row in rows],
            inputs=[n for n, t in inputs.items() if t is not None and not bool(t[taken].isfinite().all())],
            gradients=_not_finite((n, p.grad) for n, p in named if p.grad is not None),
            weights=_not_finite(policy.named_parameters()),
        )


def _not_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the tensors that hold NaN or infinity; of a sharded one this rank's part counts."""
    return [name for name, t in named if not bool(local(t).isfinite().all())]


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; one that is not sharded as it is. Without gradient."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part.detach()


def _uids(rollout: Rollout) -> list[str]:
    """The prompt of every row."""
    return [rollout.groups[at].prompt.uid for at, _ in rollout.rows]


def cause(findings: list[Finding]) -> str:
    """The likely reason, and what to change."""
    if weights := [name for f in findings for name in f.weights]:
        return (
            f"The weights themselves are not finite ({_listed(weights)}): an earlier update, or the checkpoint, "
            "left them so. Resume from a checkpoint before that with a lower learning rate; with float16 weights "
            "use policy.dtype: float32."
        )
    if inputs := [name for f in findings for name in f.inputs]:
        whose = "the advantage estimator" if {"advantages", "weights"} & set(inputs) else "the model"
        return (
            f"What goes into the loss is not finite: {_listed(inputs)}, which {whose} gave. Look at the file for "
            "the rows, and at the rewards that led to them."
        )
    if any(f.rows for f in findings):
        return (
            "The weights are finite, but the model's output on these rows, or the ratio to the old log-probs, is "
            "not. Use trainer.precision: bf16-mixed or 32-true rather than float16, a lower learning rate, fewer "
            "updates.iterations; in place of updates.old_logprobs: sampler, policy."
        )
    return (
        "Every loss is finite, but the backward pass overflows. Use trainer.precision: bf16-mixed or 32-true "
        "rather than float16, another policy.attn_implementation, or a lower learning rate."
    )


def _listed(names: list[str], most: int = 3) -> str:
    """
    >>> _listed(["a", "b", "a"]), _listed(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def description(what: str, findings: list[Finding]) -> str:
    """Which tensor is not finite, on which rank, in which rows."""
    places = []
    for f in [f for f in findings if f.rows] or [f for f in findings if f.gradients] or findings[:1]:
        rows = [f"{row} (prompt {uid})" for row, uid in zip(f.rows, f.uids, strict=True)]
        where = f"rows {_listed(rows)}" if rows else f"gradient of {_listed(f.gradients)}"
        places.append(f"rank {f.rank}: loss {f.loss:g}, {where}")
    return f"the {what} is not finite ({_listed(places)})"


def save(path: Path, rollout: Rollout, pending: PendingStep, finding: Finding, **facts: Any) -> Path:
    """Write the batch of this rank, beside and renamed; it loads with ``torch.load(path, weights_only=True)``.

    Args:
        facts: Further plain values to keep: ``what``, ``grad_norm``, ``weight_version``, …
    """
    rows, batch = pending.rows, pending.batch
    members = [(rollout.groups[at].prompt, rollout.groups[at].completions[m]) for at, m in rollout.rows]
    outcomes = torch.tensor([float(rollout.rewards[at].outcome[m]) for at, m in rollout.rows])
    tensors = {
        "advantages": batch.advantages,
        "weights": batch.weights,
        "mask": batch.mask,
        "sampler_logprobs": batch.sampler_logprobs,
        "old_logprobs": pending.old,
        "ref_logprobs": pending.ref,
    }
    content: dict[str, Any] = {
        **facts,
        **asdict(finding),
        "rollout": rollout.index,
        "losses": pending.losses,
        "taken": rows,
        "prompt_uids": [members[i][0].uid for i in rows],
        "prompts": [members[i][0].text for i in rows],
        "prompt_ids": [list(members[i][0].token_ids) for i in rows],
        "completions": [members[i][1].text for i in rows],
        "completion_ids": [list(members[i][1].token_ids) for i in rows],
        "weight_versions": [members[i][1].weight_version for i in rows],
        "rewards": outcomes[rows],
        "logprobs": pending.logprobs.cpu(),
        **{name: None if t is None else t[rows].cpu() for name, t in tensors.items()},
    }
    with whole_file(path) as hidden, hidden.open("wb") as file:
        torch.save(content, file)
    return path
