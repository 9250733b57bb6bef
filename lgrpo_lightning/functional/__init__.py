"""Pure functions on tensors: advantages, losses, log-probs."""

from lgrpo_lightning.functional.advantages import group_advantages
from lgrpo_lightning.functional.equality import close, equal_rewards, reaches
from lgrpo_lightning.functional.importance import importance_values, importance_weights
from lgrpo_lightning.functional.logprobs import chunked_logprobs, token_logprobs
from lgrpo_lightning.functional.losses import (
    aggregate,
    clipped_surrogate,
    default_normalizer,
    k3_kl,
    kl_estimate,
)

__all__ = [
    "aggregate",
    "chunked_logprobs",
    "clipped_surrogate",
    "close",
    "default_normalizer",
    "equal_rewards",
    "group_advantages",
    "importance_values",
    "importance_weights",
    "k3_kl",
    "kl_estimate",
    "reaches",
    "token_logprobs",
]
