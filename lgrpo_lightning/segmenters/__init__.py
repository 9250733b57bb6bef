"""Step segmenters: how the completions of a group are divided into process steps."""

from lgrpo_lightning.segmenters.delimiter import DelimiterSegmenter
from lgrpo_lightning.segmenters.token_prefix import TokenPrefixSegmenter

__all__ = ["DelimiterSegmenter", "TokenPrefixSegmenter"]
