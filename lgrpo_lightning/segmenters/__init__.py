"""Step segmenters: how the completions of a group are divided into process steps."""

from lgrpo_lightning.segmenters.delimiter import DelimiterSegmenter
from lgrpo_lightning.segmenters.entropy import EntropySegmenter
from lgrpo_lightning.segmenters.sentence import SentenceSegmenter
from lgrpo_lightning.segmenters.tag import TagSegmenter
from lgrpo_lightning.segmenters.token_prefix import TokenPrefixSegmenter
from lgrpo_lightning.segmenters.turns import TurnSegmenter
from lgrpo_lightning.segmenters.window import WindowSegmenter

__all__ = [
    "DelimiterSegmenter",
    "EntropySegmenter",
    "SentenceSegmenter",
    "TagSegmenter",
    "TokenPrefixSegmenter",
    "TurnSegmenter",
    "WindowSegmenter",
]
