"""Advantage estimators: the algorithms."""

from lgrpo_lightning.estimators.grpo import GRPO
from lgrpo_lightning.estimators.lambda_grpo import LambdaGRPO

__all__ = ["GRPO", "LambdaGRPO"]
