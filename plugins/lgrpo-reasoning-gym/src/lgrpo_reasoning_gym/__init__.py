"""reasoning-gym's data sets as prompts, judged by their own scorers."""

from lgrpo_lightning import hookimpl
from lgrpo_reasoning_gym.reward import ReasoningGymReward
from lgrpo_reasoning_gym.tasks import ReasoningGymTasks

LGRPO_CONTRACT = 1

__all__ = ["ReasoningGymReward", "ReasoningGymTasks"]


@hookimpl
def lgrpo_components() -> list[type]:
    """Offer the prompt source and the reward."""
    return [ReasoningGymTasks, ReasoningGymReward]
