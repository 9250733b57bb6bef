"""Rollouts from vLLM, in process or from servers."""

from lgrpo_lightning.samplers.vllm.sampler import VLLMSampler

__all__ = ["VLLMSampler"]
