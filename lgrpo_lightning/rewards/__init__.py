"""Reward models: they score completions."""

from lgrpo_lightning.rewards.binary_tree import BinaryTreeReward
from lgrpo_lightning.rewards.checks import RewardError
from lgrpo_lightning.rewards.environment_reward import EnvironmentReward
from lgrpo_lightning.rewards.exact_match import ExactMatch
from lgrpo_lightning.rewards.format_match import FormatMatch
from lgrpo_lightning.rewards.kimi_length import KimiLengthReward
from lgrpo_lightning.rewards.overlong_penalty import OverlongPenalty
from lgrpo_lightning.rewards.reward_function import RewardFunction
from lgrpo_lightning.rewards.step_reward_function import StepRewardFunction
from lgrpo_lightning.rewards.teacher_logprobs import TeacherLogprobs
from lgrpo_lightning.rewards.weighted_sum import RewardSum

__all__ = [
    "BinaryTreeReward",
    "EnvironmentReward",
    "ExactMatch",
    "FormatMatch",
    "KimiLengthReward",
    "OverlongPenalty",
    "RewardError",
    "RewardFunction",
    "RewardSum",
    "StepRewardFunction",
    "TeacherLogprobs",
]
