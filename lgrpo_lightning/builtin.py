"""The components that come with the library, offered through the same hook as any plug-in's."""

from __future__ import annotations

from collections.abc import Iterable

from lgrpo_lightning.registry.hookspecs import hookimpl

PARTS = ("RewardError", "RewardSum", "SignedPower")
"""What these rooms offer beside components."""


@hookimpl
def lgrpo_components() -> Iterable[type]:
    """The built-in components."""
    from lgrpo_lightning import environments, estimators, losses, rewards, samplers, segmenters
    from lgrpo_lightning.data.arithmetic import ArithmeticTasks
    from lgrpo_lightning.data.binary_tree import BinaryTreeTask
    from lgrpo_lightning.data.files import PromptFile
    from lgrpo_lightning.data.guessing import GuessingTask

    rooms = (samplers, segmenters, rewards, estimators, environments, losses)
    named = [getattr(room, name) for room in rooms for name in room.__all__ if name not in PARTS]
    return [*named, ArithmeticTasks, BinaryTreeTask, GuessingTask, PromptFile]
