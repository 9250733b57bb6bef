"""The trained model: log-probs of a batch, layouts, reference."""

from lgrpo_lightning.policy.config import PolicyConfig
from lgrpo_lightning.policy.lora import Lora
from lgrpo_lightning.policy.policy import Policy, TokenScores
from lgrpo_lightning.policy.reference import Reference, make_reference
from lgrpo_lightning.policy.source import PolicySource

__all__ = ["Lora", "Policy", "PolicyConfig", "PolicySource", "Reference", "TokenScores", "make_reference"]
