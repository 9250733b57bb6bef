"""The frozen reference of the KL penalty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lgrpo_lightning.policy.layout import Tokens
from lgrpo_lightning.policy.lora import without_adapter
from lgrpo_lightning.policy.policy import Policy, TokenScores


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
        with without_adapter(self.policy.model):
            scores: TokenScores = self.policy(prompts, completions, temperature=temperature)
        return scores


def reference_of(policy: Policy) -> Reference:
    """The reference of an untrained policy: the base of an adapter that starts at nothing, or a frozen copy."""
    lora = policy.config.lora
    return AdapterOff(policy) if lora is not None and lora.from_adapter is None else policy.frozen_copy()
