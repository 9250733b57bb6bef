"""The reference of the KL penalty: frozen, or updated from the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.layout import Tokens
from lgrpo_lightning.policy.lora import disable_adapter
from lgrpo_lightning.policy.policy import Policy, TokenScores
from lgrpo_lightning.policy.sharded_weights import divide_like, gather_whole, reshard


class Reference(Protocol):
    """Scores completions as the policy did before training."""

    def __call__(
        self, prompts: Sequence[Tokens], completions: Sequence[Tokens], *, temperature: float = 1.0
    ) -> TokenScores:
        """``[N, T]`` log-probs and entropies."""


class AdapterOff:
    """The base model of a policy with an adapter; as a reference it needs no further memory."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(
        self, prompts: Sequence[Tokens], completions: Sequence[Tokens], *, temperature: float = 1.0
    ) -> TokenScores:
        """``[N, T]`` log-probs and entropies of the base model."""
        with disable_adapter(self.policy.model):
            scores: TokenScores = self.policy(prompts, completions, temperature=temperature)
        return scores


def make_reference(policy: Policy) -> Reference:
    """The reference of an untrained policy: the base of an adapter that starts at nothing, or a frozen copy."""
    lora = policy.config.lora
    return AdapterOff(policy) if lora is not None and lora.from_adapter is None else policy.copy_frozen()


@dataclass(frozen=True, kw_only=True)
class ReferenceSync:
    """Every ``steps`` optimizer steps π_ref ← mix · π + (1 - mix) · π_ref (TR-DPO, arXiv:2404.09656)."""

    steps: int
    mix: float

    def is_due(self, step: int) -> bool:
        """Whether the reference is updated after this optimizer step."""
        return step > 0 and step % self.steps == 0

    @torch.no_grad()
    def update(self, reference: Reference | None, policy: Policy) -> None:
        """Mix the policy's weights in.

        Raises:
            ValueError: The reference has no weights of its own.
        """
        mixed = require_weights(reference)
        for model in (mixed, policy):
            reshard(model)
        for mine, theirs in zip(mixed.parameters(), policy.parameters(), strict=True):
            mine.lerp_(theirs.detach().to(mine.dtype), self.mix)


def require_weights(reference: Reference | None) -> Policy:
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


def gather_reference_state(reference: Reference | None) -> dict[str, Tensor]:
    """The weights of a reference, whole and on the CPU. Collective where they are sharded."""
    reshard(kept := require_weights(reference))
    return {name: gather_whole(p.detach()).cpu().clone() for name, p in kept.named_parameters()}


@torch.no_grad()
def load_reference_state(reference: Reference | None, state: Mapping[str, Tensor]) -> None:
    """Put back what ``gather_reference_state`` gave."""
    reshard(require_weights(reference))
    for name, parameter in require_weights(reference).named_parameters():
        parameter.copy_(divide_like(parameter, state[name]))
