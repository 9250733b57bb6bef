"""Advantage estimators: the algorithms."""

from lgrpo_lightning.estimators.blended_grpo import BlendedGRPO
from lgrpo_lightning.estimators.distillation import Distillation
from lgrpo_lightning.estimators.grpo import GRPO
from lgrpo_lightning.estimators.implicit_prm import ImplicitPRM
from lgrpo_lightning.estimators.lambda_grpo import LambdaGRPO
from lgrpo_lightning.estimators.process_grpo import ProcessGRPO
from lgrpo_lightning.estimators.tempo import TEMPO

__all__ = ["GRPO", "TEMPO", "BlendedGRPO", "Distillation", "ImplicitPRM", "LambdaGRPO", "ProcessGRPO"]
