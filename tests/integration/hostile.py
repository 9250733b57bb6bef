"""Components that do what nobody should, beside ones that answer the same and do nothing else."""

from __future__ import annotations

import os
import random
import tempfile
from typing import Any

import numpy as np
import torch

from lgrpo_lightning.contracts import AdvantageEstimator, PromptSource, RewardModel, StepSegmenter
from lgrpo_lightning.estimators import LambdaGRPO
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.segmenters import TokenPrefixSegmenter

SEEN: list[tuple[str, bool, bool]] = []
"""(component, whether gradients are on, whether autocast is on)."""
DRAWN: list[tuple[float, float, float]] = []
"""What the reward drew in each call."""


def misbehave(who: str) -> None:
    """Change everything of the process that training relies on."""
    SEEN.append((who, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
    os.chdir(tempfile.gettempdir())
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1234)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(True)


class Rows(PromptSource):
    """Sums with the answer in a list."""

    def __init__(self, hostile: bool = False) -> None:
        self.hostile = hostile

    def rows(self) -> Any:
        if self.hostile:
            misbehave("source")
        return [
            {"prompt": f"{a}+{a + 1}+2+3=", "answers": [str(2 * a + 6), "none"], "more": {"n": [a]}} for a in range(4)
        ]


class Judge(RewardModel):
    """1 where the last number is among the answers, and a little more for length."""

    columns = ("answers",)

    def __init__(self, hostile: bool = False) -> None:
        self.hostile = hostile

    def start(self, progress: Any) -> None:
        if self.hostile:
            misbehave("start")

    def score(self, group: Any, tree: Any) -> torch.Tensor:
        DRAWN.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
        answers = list(group.prompt.columns["answers"])
        assert len(answers) == 2
        assert group.prompt.columns["more"]["n"] != []
        scores = [float(r.text.strip().endswith(answers[0])) + len(r) / 100 for r in group.completions]
        if self.hostile:
            group.prompt.columns["answers"].pop()
            group.prompt.columns["more"]["n"].clear()
            misbehave("reward_model")
        return torch.tensor(scores, dtype=torch.float32)


class Segments(StepSegmenter):
    """Exact tokens."""

    def __init__(self, hostile: bool = False) -> None:
        self.hostile = hostile

    def segment(self, group: Any) -> Any:
        tree = TokenPrefixSegmenter().segment(group)
        if self.hostile:
            group.prompt.columns["answers"].pop()
            misbehave("segmenter")
        return tree


class Estimates(AdvantageEstimator):
    """λ-GRPO."""

    def __init__(self, hostile: bool = False) -> None:
        self.hostile = hostile

    def estimate(self, rewards: Any, tree: Any) -> Any:
        credit = LambdaGRPO().estimate(rewards, tree)
        if self.hostile:
            misbehave("advantage_estimator")
        return credit


class Samples(TransformersSampler):
    """The policy's own model."""

    def __init__(self, hostile: bool = False) -> None:
        super().__init__()
        self.hostile = hostile

    def sync(self, version: int) -> None:
        if self.hostile:
            misbehave("sync")

    def sample(self, prompts: Any, group_size: int, **options: Any) -> Any:
        groups = super().sample(prompts, group_size, **options)
        if self.hostile:
            for prompt in prompts:
                prompt.columns["more"]["n"].append(1)
            misbehave("sampler")
        return groups

    def release(self) -> None:
        if self.hostile:
            misbehave("release")
