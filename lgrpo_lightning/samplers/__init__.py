"""Samplers: draw a group of completions for each prompt."""

from lgrpo_lightning.samplers.transformers import TransformersSampler
from lgrpo_lightning.samplers.vllm import VLLMSampler

__all__ = ["TransformersSampler", "VLLMSampler"]
