"""Language models as judges, and reward models of Hugging Face."""

from lgrpo_judge.judge import JudgeReward
from lgrpo_judge.model import ModelReward
from lgrpo_lightning import hookimpl

LGRPO_CONTRACT = 1

__all__ = ["JudgeReward", "ModelReward"]


@hookimpl
def lgrpo_components() -> list[type]:
    """Offer the reward models."""
    return [JudgeReward, ModelReward]
