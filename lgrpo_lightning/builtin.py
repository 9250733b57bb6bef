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
    from lgrpo_lightning.estimators import (
        GDPO,
        GRPO,
        GTPO,
        RLOO,
        TEMPO,
        BlendedGRPO,
        EligibilityTraceGRPO,
        ImplicitPRM,
        LambdaGRPO,
        LearnableTokenPreference,
        MaxRL,
        PassAtK,
        ProcessGRPO,
        ReinforcePlusPlus,
        TreeAdv,
    )
    from lgrpo_lightning.rewards import (
        BinaryTreeReward,
        ExactMatch,
        FormatMatch,
        RewardFunction,
        StepRewardFunction,
    )
    from lgrpo_lightning.samplers import ForkingSampler, TransformersSampler, VLLMSampler
    from lgrpo_lightning.segmenters import (
        DelimiterSegmenter,
        EntropySegmenter,
        SentenceSegmenter,
        TagSegmenter,
        TokenPrefixSegmenter,
        WindowSegmenter,
    )

    return [
        TransformersSampler,
        VLLMSampler,
        ForkingSampler,
        TokenPrefixSegmenter,
        DelimiterSegmenter,
        SentenceSegmenter,
        TagSegmenter,
        WindowSegmenter,
        EntropySegmenter,
        ExactMatch,
        FormatMatch,
        RewardFunction,
        StepRewardFunction,
        GRPO,
        LambdaGRPO,
        ProcessGRPO,
        BlendedGRPO,
        ImplicitPRM,
        TEMPO,
        RLOO,
        ReinforcePlusPlus,
        GDPO,
        PassAtK,
        MaxRL,
        TreeAdv,
        GTPO,
        LearnableTokenPreference,
        EligibilityTraceGRPO,
        BinaryTreeReward,
        ArithmeticTasks,
        BinaryTreeTask,
        PromptFile,
    ]
