"""The trained model: log-probs of a batch, layouts, reference."""

from lgrpo_lightning.policy.config import PolicyConfig
from lgrpo_lightning.policy.policy import Policy, TokenScores
from lgrpo_lightning.policy.source import PolicySource

__all__ = ["Policy", "PolicyConfig", "PolicySource", "TokenScores"]
