"""Refuses an optimizer step whose loss or gradient is not finite, on all ranks alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.policy import Policy
from lgrpo_lightning.policy.sharded_weights import gather_whole
from lgrpo_lightning.rollouts.names import NONFINITE, show_path
from lgrpo_lightning.training.nonfinite import Finding, NonFiniteError, cause, description, local, save
from lgrpo_lightning.training.optimizers import compute_gradient_norm
from lgrpo_lightning.training.options import OnNonFinite
from lgrpo_lightning.training.pending_step import PendingStep
from lgrpo_lightning.types import Rollout

MOST_DROPPED = 10
"""Optimizer steps dropped one after the other, at which the run stops all the same."""


class StepGuard:
    """Looks at each optimizer step after its backward passes and before the update.

    Args:
        policy: The model; its gradients are complete and averaged over ranks.
        ranks: All of them look, and decide alike.
        rank: This one.
        root: The run's folder; None writes no file.
        on_nonfinite: What to do with a step that is not finite.
        say: Prints a line, on one rank.
        scaler: The GradScaler of 16-bit training: it drops steps whose scaled gradient overflows itself.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        ranks: Ranks,
        rank: int,
        root: Path | None,
        on_nonfinite: OnNonFinite,
        say: Callable[[str], None],
        scaler: Any = None,
    ) -> None:
        self.policy = policy
        self.ranks = ranks
        self.rank = rank
        self.root = root
        self.on_nonfinite = on_nonfinite
        self.say = say
        self.scaler = scaler
        self.dropped = 0  # one after the other
        self.norm: tuple[Tensor, float] | None = None  # of the last gradient; None where it is still scaled
        self._last: tuple[Rollout, PendingStep] | None = None  # the step that was allowed

    def allows(self, rollout: Rollout, pending: PendingStep, version: int) -> bool:
        """Whether the step may be made. Collective.

        Args:
            version: Optimizer steps made so far.

        Raises:
            NonFiniteError: Something is not finite, and ``on_nonfinite`` is "stop", or dropping steps does not help.
        """
        norm = compute_gradient_norm(self.policy.parameters())
        value = float(gather_whole(norm))  # waits for the device; what is read after it is ready
        self.norm = (norm, value) if self.scaler is None else None
        flags = [not pending.finite, not math.isfinite(value) and not self._scaled_too_far()]
        loss, gradient = self.ranks.max(torch.tensor(flags, device=self.policy.device).float()).tolist()
        if not loss and not gradient:
            self.dropped, self._last = 0, (rollout, pending)
            return True
        self.dropped += 1
        what = "loss" if loss else "gradient"
        findings, place = self._saved(rollout, pending, what=what, grad_norm=value, weight_version=version)
        where = f"Rollout {rollout.index}, optimizer step {version}: {description(what, findings)}"
        text = f"{where}. {cause(findings)} {place}"
        if self.on_nonfinite == "stop":
            raise NonFiniteError(
                f"{text} The update was not made, weights and optimizer are those of before. "
                "updates.on_nonfinite: skip drops such optimizer steps and goes on."
            )
        if any(f.weights for f in findings):
            raise NonFiniteError(f"{text} Dropping the optimizer step cannot mend that.")
        if self.dropped >= MOST_DROPPED:
            raise NonFiniteError(f"{text} {self.dropped} optimizer steps in a row were dropped for that.")
        self.say(f"Optimizer step dropped. {text}")
        return False

    def check_weights(self, version: int) -> None:
        """Refuse the updates of a rollout where they left weights that are not finite, before a checkpoint takes them.

        Collective.

        Raises:
            NonFiniteError: With their names.
        """
        last, self._last = self._last, None
        if last is None:
            return
        rollout, pending = last
        weights = [local(p) for p in self.policy.parameters() if p.requires_grad]
        largest = torch.nn.utils.get_total_norm([w for w in weights if w.numel()], torch.inf)
        if float(self.ranks.max((~largest.isfinite()).float().to(self.policy.device))):
            findings, place = self._saved(rollout, pending, what="weights", weight_version=version)
            names = list(dict.fromkeys(name for f in findings for name in f.weights))
            raise NonFiniteError(
                f"Rollout {rollout.index}: optimizer step {version}, from a finite gradient, left weights that are "
                f"not finite ({', '.join(names[:3])}). Lower the learning rate, or keep the weights in float32 "
                f"(policy.dtype). The checkpoint written before stays. {place}"
            )

    def _scaled_too_far(self) -> bool:
        """Whether a scaled gradient that overflows is the scaler's to drop: its scale has room to fall."""
        return self.scaler is not None and self.scaler.get_scale() >= 1

    def _saved(self, rollout: Rollout, pending: PendingStep, **facts: Any) -> tuple[list[Finding], str]:
        """What every rank found, once all have written their batch; and a sentence on where that is."""
        finding = Finding.of(pending, rollout, self.policy, rank=self.rank)
        place = "Nothing is kept of the batch (fast_dev_run)."
        if self.root is not None:
            step = f"rollout-{rollout.index:06d}-step-{facts['weight_version']:06d}"
            path = self.root / NONFINITE / f"{step}-rank-{self.rank:03d}.pt"
            try:
                save(path, rollout, pending, finding, **facts)
                place = f"The batch is in {show_path(path)} (torch.load(..., weights_only=True))."
            except OSError as error:
                place = f"The batch could not be written to {show_path(path)}: {error}."
        found = self.ranks.gather((finding, place))
        worst = next((i for i, (f, _) in enumerate(found) if f.rows or f.inputs), self.rank)
        return [f for f, _ in found], found[worst][1]
