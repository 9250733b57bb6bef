"""The components that come with the library, offered through the same hook as any plug-in's."""

from __future__ import annotations

from collections.abc import Iterable

from lgrpo_lightning.plugins.hookspecs import hookimpl


@hookimpl
def lgrpo_components() -> Iterable[type]:
    """The built-in components."""
    from lgrpo_lightning.data.arithmetic import ArithmeticTasks
    from lgrpo_lightning.data.binary_tree import BinaryTreeTask
    from lgrpo_lightning.data.files import PromptFile
    from lgrpo_lightning.estimators import GRPO, LambdaGRPO
    from lgrpo_lightning.rewards import BinaryTreeReward, ExactMatch, FormatMatch, RewardFunction
    from lgrpo_lightning.samplers import TransformersSampler, VLLMSampler
    from lgrpo_lightning.segmenters import DelimiterSegmenter, TokenPrefixSegmenter

    return [
        TransformersSampler,
        VLLMSampler,
        TokenPrefixSegmenter,
        DelimiterSegmenter,
        ExactMatch,
        FormatMatch,
        RewardFunction,
        GRPO,
        LambdaGRPO,
        BinaryTreeReward,
        ArithmeticTasks,
        BinaryTreeTask,
        PromptFile,
    ]
