"""Environments of verifiers: its tasks as prompts, its rollouts drawn by a sampler of this library, its rewards."""

from typing import Any

from lgrpo_lightning import hookimpl
from lgrpo_verifiers.prompts import VerifiersPrompts
from lgrpo_verifiers.sampler import VerifiersSampler

LGRPO_CONTRACT = 1

__all__ = ["ChatHarness", "VerifiersPrompts", "VerifiersSampler"]  # the first one is made when it is asked for


@hookimpl
def lgrpo_components() -> list[type]:
    """Offer the prompt source and the sampler."""
    return [VerifiersPrompts, VerifiersSampler]


def __getattr__(name: str) -> Any:
    """``ChatHarness``, which verifiers finds under the id ``lgrpo-verifiers``; verifiers is imported only then."""
    if name == "ChatHarness":
        from lgrpo_verifiers.harness import ChatHarness

        return ChatHarness
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
