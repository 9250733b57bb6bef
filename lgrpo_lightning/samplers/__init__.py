"""Samplers: draw a group of completions for each prompt."""

from lgrpo_lightning.samplers.environment import EnvironmentSampler
from lgrpo_lightning.samplers.forking import ForkingSampler
from lgrpo_lightning.samplers.transformers import TransformersSampler
from lgrpo_lightning.samplers.vllm import VLLMSampler

__all__ = ["EnvironmentSampler", "ForkingSampler", "TransformersSampler", "VLLMSampler"]
