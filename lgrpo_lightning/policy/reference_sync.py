"""A reference that is updated from the policy (TR-DPO, arXiv:2404.09656)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.policy import Policy
from lgrpo_lightning.policy.reference import Reference
from lgrpo_lightning.policy.sharded_weights import divide_like, gather_whole, reshard


@dataclass(frozen=True, kw_only=True)
class ReferenceSync:
    """How a reference follows: every ``steps`` optimizer steps, π_ref ← mix · π + (1 - mix) · π_ref."""

    steps: int
    mix: float

    def due(self, step: int) -> bool:
        """Whether the reference is updated after this optimizer step."""
        return step > 0 and step % self.steps == 0

    @torch.no_grad()
    def update(self, reference: Reference | None, policy: Policy) -> None:
        """Mix the policy's weights in.

        Raises:
            ValueError: The reference has no weights of its own.
        """
        mixed = own(reference)
        for model in (mixed, policy):
            reshard(model)
        for mine, theirs in zip(mixed.parameters(), policy.parameters(), strict=True):
            mine.lerp_(theirs.detach().to(mine.dtype), self.mix)


def own(reference: Reference | None) -> Policy:
    """The reference as a model with weights of its own, all of which are trained in the policy.

    Raises:
        ValueError: It has none.
    """
    if not isinstance(reference, Policy) or reference.config.lora is not None:
        raise UserError(
            "objective.reference_sync_steps mixes the policy's weights into those of the reference; a LoRA run trains "
            "an adapter, and the mean of two adapters is not the adapter of their mean. Train all weights "
            "(policy.lora: null), or leave reference_sync_steps null."
        )
    return reference


def reference_state(reference: Reference | None) -> dict[str, Tensor]:
    """The weights of a reference, whole and on the CPU. Collective where they are sharded."""
    reshard(kept := own(reference))
    return {name: gather_whole(p.detach()).cpu().clone() for name, p in kept.named_parameters()}


@torch.no_grad()
def load_reference_state(reference: Reference | None, state: Mapping[str, Tensor]) -> None:
    """Put back what ``reference_state`` gave."""
    reshard(own(reference))
    for name, parameter in own(reference).named_parameters():
        parameter.copy_(divide_like(parameter, state[name]))
