"""Advantage estimators: the algorithms."""

from lgrpo_lightning.estimators.blended_grpo import BlendedGRPO
from lgrpo_lightning.estimators.distillation import Distillation
from lgrpo_lightning.estimators.eligibility_trace_grpo import EligibilityTraceGRPO
from lgrpo_lightning.estimators.focal_grpo import FocalGRPO
from lgrpo_lightning.estimators.gdpo import GDPO
from lgrpo_lightning.estimators.grpo import GRPO, SignedPower
from lgrpo_lightning.estimators.gtpo import GTPO
from lgrpo_lightning.estimators.implicit_prm import ImplicitPRM
from lgrpo_lightning.estimators.lambda_grpo import LambdaGRPO
from lgrpo_lightning.estimators.learnable_token_preference import LearnableTokenPreference
from lgrpo_lightning.estimators.max_rl import MaxRL
from lgrpo_lightning.estimators.pass_at_k import PassAtK
from lgrpo_lightning.estimators.process_grpo import ProcessGRPO
from lgrpo_lightning.estimators.reinforce_plus_plus import ReinforcePlusPlus
from lgrpo_lightning.estimators.rloo import RLOO
from lgrpo_lightning.estimators.tempo import TEMPO
from lgrpo_lightning.estimators.tree_adv import TreeAdv
from lgrpo_lightning.estimators.tree_gae import TreeGAE

__all__ = [
    "GDPO",
    "GRPO",
    "GTPO",
    "RLOO",
    "TEMPO",
    "BlendedGRPO",
    "Distillation",
    "EligibilityTraceGRPO",
    "FocalGRPO",
    "ImplicitPRM",
    "LambdaGRPO",
    "LearnableTokenPreference",
    "MaxRL",
    "PassAtK",
    "ProcessGRPO",
    "ReinforcePlusPlus",
    "SignedPower",
    "TreeAdv",
    "TreeGAE",
]
