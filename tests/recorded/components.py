"""Completions and rewards from a file in place of free-running ones: ranks and rounding cannot change them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning import Completion, Group, ProcessTree, Prompt, RewardModel, Sampler, Sampling
from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.types import Progress

FILE = Path(__file__).parent.parent / "assets" / "rollouts.json"
"""Four rollouts of eight prompts, four completions each: ``{"<rollout>/<prompt uid>": {completions, rewards}}``."""


def recorded() -> dict[str, Any]:
    """What ``FILE`` holds."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


class RecordedSampler(Sampler):
    """Gives the completions of ``FILE``, by prompt and rollout counter."""

    def __init__(self) -> None:
        self.groups = recorded()

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, *, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        """The recorded groups of this rollout."""
        return [
            Group(
                prompt=p,
                completions=tuple(map(rollout, self.groups[f"{random_key.counter}/{p.uid}"]["completions"])),
            )
            for p in prompts
        ]


def rollout(saved: dict[str, Any]) -> Completion:
    """A completion as it was recorded."""
    return Completion(
        token_ids=tuple(saved["token_ids"]),
        logprobs=torch.tensor(saved["logprobs"]),
        text=saved["text"],
        text_ends=tuple(saved["text_ends"]),
        finish_reason=saved["finish_reason"],
        mask=torch.ones(len(saved["token_ids"]), dtype=torch.bool),
    )


class RecordedReward(RewardModel):
    """Gives the rewards of ``FILE``."""

    def __init__(self) -> None:
        self.groups = recorded()
        self.rollout = 0

    def start(self, progress: Progress) -> None:
        """Remember which rollout it is."""
        self.rollout = progress.rollout

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        """The recorded rewards of a group."""
        return torch.tensor(self.groups[f"{self.rollout}/{group.prompt.uid}"]["rewards"])


class Digits(RewardModel):
    """The share of digits in a completion, for models that know nothing."""

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        """One share a completion."""
        return torch.tensor([sum(c.isdigit() for c in r.text) / len(r) for r in group.completions])
