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
        GRPO,
        TEMPO,
        BlendedGRPO,
        Distillation,
        ImplicitPRM,
        LambdaGRPO,
        ProcessGRPO,
    )
    from lgrpo_lightning.losses import CISPO, GMPO, GSPO, LUSPO, SAPO, VESPO, ClippedSurrogate, Reinforce
    from lgrpo_lightning.rewards import (
        BinaryTreeReward,
        ExactMatch,
        FormatMatch,
        KimiLengthReward,
        OverlongPenalty,
        RewardFunction,
        StepRewardFunction,
        TeacherLogprobs,
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
        OverlongPenalty,
        KimiLengthReward,
        RewardFunction,
        StepRewardFunction,
        TeacherLogprobs,
        GRPO,
        LambdaGRPO,
        ProcessGRPO,
        BlendedGRPO,
        ImplicitPRM,
        TEMPO,
        Distillation,
        ClippedSurrogate,
        GSPO,
        CISPO,
        SAPO,
        GMPO,
        LUSPO,
        VESPO,
        Reinforce,
        BinaryTreeReward,
        ArithmeticTasks,
        BinaryTreeTask,
        PromptFile,
    ]
