"""A reward for completions near a target length."""

import torch

from lgrpo_lightning import Group, ProcessTree, RewardModel, hookimpl
from lgrpo_lightning.errors import UserError


class LengthReward(RewardModel):
    """1 at the target length, falling in a straight line to 0 at ``tolerance`` tokens from it.

    Args:
        target_tokens: The length that gets the full reward, in tokens.
        tolerance: How far from it the reward is 0, in tokens.
    """

    def __init__(self, target_tokens: int = 64, tolerance: int = 32) -> None:
        if tolerance < 1:
            raise UserError(f"tolerance is {tolerance}; it must be at least 1.")
        self.target_tokens = target_tokens
        self.tolerance = tolerance

    def score(self, group: Group, tree: ProcessTree) -> torch.Tensor:
        """``[G]`` rewards between 0 and 1."""
        lengths = torch.tensor([len(r) for r in group.completions])
        return (1 - (lengths - self.target_tokens).abs() / self.tolerance).clamp(min=0)


@hookimpl
def lgrpo_components() -> list[type]:
    """Offer the reward by its class name."""
    return [LengthReward]
