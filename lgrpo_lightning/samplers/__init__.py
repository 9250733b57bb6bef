"""Samplers: draw a group of completions for each prompt."""

from lgrpo_lightning.samplers.transformers import TransformersSampler

__all__ = ["TransformersSampler"]
