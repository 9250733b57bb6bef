"""Refuses an optimizer step whose loss or gradient is not finite: why that may be, and the batch of it on disk."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.distributed.ranks import find_ranks
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy import Policy
from lgrpo_lightning.policy.sharded_weights import gather_whole
from lgrpo_lightning.rollouts.names import NONFINITE, show_path
from lgrpo_lightning.rollouts.whole_files import whole_file
from lgrpo_lightning.training.optimizers import compute_gradient_norm
from lgrpo_lightning.training.options import OnNonFinite
from lgrpo_lightning.training.pending_step import PendingStep
from lgrpo_lightning.types import Rollout

MOST_DROPPED = 10
"""Optimizer steps dropped one after the other, at which the run stops all the same."""


class NonFiniteError(UserError):
    """A loss, gradient or weight is not finite; the message says which, where the batch is and what to change."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one rank found.

    Attributes:
        rows, uids: Offending rows of its batch, and their prompts.
        inputs: Which of the inputs of the loss are not finite: "advantages", "old_logprobs", …
        gradients, weights: Names of parameters whose gradient or value is not finite, as far as this rank holds them.
    """

    rank: int
    loss: float
    rows: list[int]
    uids: list[str]
    inputs: list[str]
    gradients: list[str]
    weights: list[str]


class StepGuard:
    """Looks at each optimizer step after its backward passes and before the update, and decides alike on all ranks."""

    def __init__(self, trainer: Any, policy: Policy, on_nonfinite: OnNonFinite) -> None:
        self.trainer = trainer
        self.policy = policy
        self.ranks = find_ranks(trainer)
        self.on_nonfinite = on_nonfinite
        # of 16-bit training: it drops steps whose scaled gradient overflows itself
        self.scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.dropped = 0  # one after the other
        self.norm: tuple[Tensor, float] | None = None  # of the last gradient; None where it is still scaled
        self._last: tuple[Rollout, PendingStep] | None = None  # the step that was allowed

    def allows(self, rollout: Rollout, pending: PendingStep) -> bool:
        """Whether the step may be made. Collective.

        Raises:
            NonFiniteError: Something is not finite, and ``on_nonfinite`` is "stop", or dropping steps does not help.
        """
        norm = compute_gradient_norm(self.policy.parameters())
        value = float(gather_whole(norm))  # waits for the device; what is read after it is ready
        self.norm = (norm, value) if self.scaler is None else None
        # a scaled gradient that overflows is the scaler's to drop while its scale has room to fall
        scaled_too_far = self.scaler is not None and self.scaler.get_scale() >= 1
        flags = [not pending.finite, not math.isfinite(value) and not scaled_too_far]
        loss, gradient = self.ranks.max(torch.tensor(flags, device=self.policy.device).float()).tolist()
        if not loss and not gradient:
            self.dropped, self._last = 0, (rollout, pending)
            return True
        self.dropped += 1
        what = "loss" if loss else "gradient"
        findings, place = self._look(rollout, pending, what=what, grad_norm=value)
        where = f"Rollout {rollout.index}, optimizer step {self.trainer.global_step}: {_describe(what, findings)}"
        text = f"{where}. {_explain(findings)} {place}"
        if self.on_nonfinite == "stop":
            raise NonFiniteError(
                f"{text} The update was not made, weights and optimizer are those of before. "
                "updates.on_nonfinite: skip drops such optimizer steps and goes on."
            )
        if any(f.weights for f in findings):
            raise NonFiniteError(f"{text} Dropping the optimizer step cannot mend that.")
        if self.dropped >= MOST_DROPPED:
            raise NonFiniteError(f"{text} {self.dropped} optimizer steps in a row were dropped for that.")
        say(self.trainer, f"Optimizer step dropped. {text}")
        return False

    def check_weights(self) -> None:
        """Refuse updates that left weights that are not finite, before a checkpoint takes them. Collective.

        Raises:
            NonFiniteError: With their names.
        """
        last, self._last = self._last, None
        if last is None:
            return
        weights = [_get_part(p) for p in self.policy.parameters() if p.requires_grad]
        largest = torch.nn.utils.get_total_norm([w for w in weights if w.numel()], torch.inf)
        if float(self.ranks.max((~largest.isfinite()).float().to(self.policy.device))):
            findings, place = self._look(*last, what="weights")
            raise NonFiniteError(
                f"Rollout {last[0].index}: optimizer step {self.trainer.global_step}, from a finite gradient, left "
                f"weights that are not finite ({_list_first([name for f in findings for name in f.weights])}). Lower "
                "the learning rate, or keep the weights in float32 (policy.dtype). The checkpoint written before "
                f"stays. {place}"
            )

    def _look(self, rollout: Rollout, pending: PendingStep, **facts: Any) -> tuple[list[Finding], str]:
        """What every rank found, once all have written their batch; and where the worst one is, as a sentence."""
        trainer, rank = self.trainer, self.trainer.global_rank
        finding = _find(pending, rollout, self.policy, rank)
        place = "Nothing is kept of the batch (fast_dev_run)."
        if not trainer.fast_dev_run:
            step = f"rollout-{rollout.index:06d}-step-{trainer.global_step:06d}-rank-{rank:03d}"
            path = Path(trainer.default_root_dir) / NONFINITE / f"{step}.pt"
            try:
                _save(path, rollout, pending, weight_version=trainer.global_step, **facts, **asdict(finding))
                place = f"The batch is in {show_path(path)} (torch.load(..., weights_only=True))."
            except OSError as error:
                place = f"The batch could not be written to {show_path(path)}: {error}."
        found = self.ranks.gather((finding, place))
        worst = next((i for i, (f, _) in enumerate(found) if f.rows or f.inputs), rank)
        return [f for f, _ in found], found[worst][1]


def _find(pending: PendingStep, rollout: Rollout, policy: Policy, rank: int) -> Finding:
    rows = pending.offending()
    inputs = {
        "advantages": pending.batch.advantages,
        "weights": pending.batch.weights,
        "old_logprobs": pending.old,
        "ref_logprobs": pending.ref,
    }
    gradients = ((n, p.grad) for n, p in policy.named_parameters() if p.requires_grad and p.grad is not None)
    return Finding(
        rank=rank,
        loss=pending.loss,
        rows=rows,
        uids=[rollout.groups[rollout.rows[row][0]].prompt.uid for row in rows],
        inputs=_list_not_finite((n, t[pending.rows]) for n, t in inputs.items() if t is not None),
        gradients=_list_not_finite(gradients),
        weights=_list_not_finite(policy.named_parameters()),
    )


def _list_not_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    return [name for name, t in named if not bool(_get_part(t).isfinite().all())]


def _get_part(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; one that is not sharded as it is. Without gradient."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part.detach()


def _explain(findings: list[Finding]) -> str:
    """The likely reason, and what to change."""
    if weights := [name for f in findings for name in f.weights]:
        return (
            f"The weights themselves are not finite ({_list_first(weights)}): an earlier update, or the checkpoint, "
            "left them so. Resume from a checkpoint before that with a lower learning rate; with float16 weights "
            "use policy.dtype: float32."
        )
    if inputs := [name for f in findings for name in f.inputs]:
        whose = "the advantage estimator" if {"advantages", "weights"} & set(inputs) else "the model"
        return (
            f"What goes into the loss is not finite: {_list_first(inputs)}, which {whose} gave. Look at the file for "
            "the rows, and at the rewards that led to them."
        )
    other = "Use trainer.precision: bf16-mixed or 32-true rather than float16, a lower learning rate, or"
    if any(f.rows for f in findings):
        return (
            "The weights are finite, but the model's output on these rows, or the ratio to the old log-probs, is "
            f"not. {other} fewer updates.iterations; in place of updates.old_logprobs: sampler, policy."
        )
    return f"Every loss is finite, but the backward pass overflows. {other} another policy.attn_implementation."


def _describe(what: str, findings: list[Finding]) -> str:
    """Which tensor is not finite, on which rank, in which rows."""
    places = []
    for f in [f for f in findings if f.rows] or [f for f in findings if f.gradients] or findings[:1]:
        rows = [f"{row} (prompt {uid})" for row, uid in zip(f.rows, f.uids, strict=True)]
        where = f"rows {_list_first(rows)}" if rows else f"gradient of {_list_first(f.gradients)}"
        places.append(f"rank {f.rank}: loss {f.loss:g}, {where}")
    return f"the {what} is not finite ({_list_first(places)})"


def _list_first(names: list[str], most: int = 3) -> str:
    """
    >>> _list_first(["a", "b", "a"]), _list_first(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _save(path: Path, rollout: Rollout, pending: PendingStep, **facts: Any) -> None:
    """Write the batch of this rank, beside and renamed; it loads with ``torch.load(path, weights_only=True)``."""
    rows, batch = pending.rows, pending.batch
    at = [rollout.rows[row] for row in rows]
    prompts = [rollout.groups[group].prompt for group, _ in at]
    completions = [rollout.groups[group].completions[member] for group, member in at]
    tensors = {
        "advantages": batch.advantages,
        "weights": batch.weights,
        "mask": batch.mask,
        "sampler_logprobs": batch.sampler_logprobs,
        "old_logprobs": pending.old,
        "ref_logprobs": pending.ref,
    }
    content = {
        **facts,
        "rollout": rollout.index,
        "losses": pending.losses,
        "taken": rows,
        "prompt_uids": [prompt.uid for prompt in prompts],
        "prompts": [prompt.text for prompt in prompts],
        "prompt_ids": [list(prompt.token_ids) for prompt in prompts],
        "completions": [completion.text for completion in completions],
        "completion_ids": [list(completion.token_ids) for completion in completions],
        "weight_versions": [completion.weight_version for completion in completions],
        "rewards": torch.tensor([float(rollout.rewards[group].outcome[member]) for group, member in at]),
        "logprobs": pending.logprobs.cpu(),
        **{name: None if t is None else t[rows].cpu() for name, t in tensors.items()},
    }
    with whole_file(path) as hidden, hidden.open("wb") as file:
        torch.save(content, file)
