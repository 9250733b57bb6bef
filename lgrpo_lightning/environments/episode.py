"""An episode while it runs: what was said, and what the completion has become."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.types import Completion, FinishReason, Fork, Message, Prompt, Turn


@dataclass(kw_only=True)
class Episode:
    """One member of a group, turn after turn; the first was drawn after ``prompt``, and ``environment`` answers."""

    prompt: Prompt
    member: int
    environment: Environment
    ids: list[int] = field(default_factory=list)
    logprobs: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    entropies: list[Tensor] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    open: bool = True
    dropped: bool = False  # it failed, and does not apply
    lost: bool = False  # a call of the environment hangs: it is not used again
    finish_reason: FinishReason = "length"
    weight_version: int = 0
    rewards: tuple[float, ...] = ()
    fork: Fork | None = None

    def add_turn(self, turn: Completion, message: Message) -> None:
        """The policy took a turn; one that was cut off is the last."""
        self._append(turn.token_ids, turn.logprobs, turn.mask, "assistant", (message,))
        if turn.entropies is not None:
            self.entropies.append(turn.entropies)
        self.weight_version = turn.weight_version
        self.fork = self.fork or turn.fork  # of the first turn
        if turn.finish_reason == "length":
            self.end("length")

    def add_answer(self, ids: Sequence[int], messages: Sequence[Message]) -> None:
        """The environment answered: tokens that are not the policy's own."""
        zeros = torch.zeros(len(ids))
        self._append(ids, zeros, zeros.bool(), "environment", tuple(messages))
        if self.entropies:
            self.entropies.append(zeros)

    def _append(
        self, ids: Sequence[int], logprobs: Tensor, mask: Tensor, role: str, messages: tuple[Message, ...]
    ) -> None:
        start = len(self.ids)
        self.ids.extend(ids)
        self.logprobs.append(logprobs)
        self.masks.append(mask)
        self.turns.append(Turn(role=role, start=start, end=len(self.ids), messages=messages))  # type: ignore[arg-type]
        self.messages.extend(messages)

    def end(self, reason: FinishReason) -> None:
        """Nothing more is drawn."""
        self.open, self.finish_reason = False, reason

    def drop(self) -> None:
        """It failed: nothing of it is trained, and it is worth nothing that counts."""
        self.dropped, self.rewards = True, (math.nan,)
        self.end("stop")

    def make_completion(self, text: str, text_ends: tuple[int, ...]) -> Completion:
        """The completion."""
        mask = torch.cat(self.masks) & (not self.dropped)
        return Completion(
            token_ids=tuple(self.ids),
            logprobs=torch.cat(self.logprobs),
            text=text,
            text_ends=text_ends,
            finish_reason=self.finish_reason,
            mask=mask,
            weight_version=self.weight_version,
            entropies=torch.cat(self.entropies) if self.entropies else None,
            fork=self.fork,
            applies=not self.dropped,
            turns=tuple(self.turns),
            rewards=self.rewards,
            metrics=self.metrics,
        )

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers of turns and of failures, and what the environment counts."""
        own = dict(getattr(self.environment, "metrics", {}))
        spoken = sum(turn.role == "assistant" for turn in self.turns)
        return {**own, "episodes/turns": float(spoken), "episodes/failed": float(self.dropped)}
