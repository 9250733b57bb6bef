"""Rewards for Python programs that pass tests."""

from lgrpo_code.reward import CodeTests
from lgrpo_lightning import hookimpl

LGRPO_CONTRACT = 1

__all__ = ["CodeTests"]


@hookimpl
def lgrpo_components() -> list[type]:
    """Offer the reward model."""
    return [CodeTests]
