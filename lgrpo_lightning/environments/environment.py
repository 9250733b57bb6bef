"""The contract of environments, apart from the others: a process in which one runs need not import torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lgrpo_lightning.types import Message


class Environment(ABC):
    """One episode: what answers the policy's turns. Each completion has one of its own, made by copying this one.

    >>> class Echo(Environment):
    ...     def respond(self, turns):
    ...         return [{"role": "user", "content": turns[-1]["content"]}] if len(turns) < 3 else None
    >>> Echo().respond([{"role": "assistant", "content": "hi"}])
    [{'role': 'user', 'content': 'hi'}]
    """

    seed: int = 0
    """Set before ``reset``; the same for all completions of a prompt, so that they face the same task."""

    @property
    def tools(self) -> Sequence[Callable[..., Any]]:
        """Functions that the chat template shows to the model."""
        return ()

    def reset(self, columns: Mapping[str, Any]) -> str | None:
        """Begin anew, from the prompt's data columns; a text is appended to the prompt's last message."""
        return None

    @abstractmethod
    def respond(self, turns: Sequence[Message]) -> Sequence[Message] | None:
        """What comes back, as messages; None where the episode is over.

        Args:
            turns: The episode's messages so far, after the prompt; the last one is the assistant's.
        """

    def reward(self) -> float | Sequence[float] | None:
        """The reward of the episode: one number, one for each turn that was answered, or None: it does not apply."""
        return None

    def close(self) -> None:  # noqa: B027
        """The episode is over: release what it holds."""
