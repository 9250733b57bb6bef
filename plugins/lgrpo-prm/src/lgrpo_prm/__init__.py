"""Process reward models of Hugging Face as step rewards."""

from lgrpo_lightning import hookimpl
from lgrpo_prm.conventions import CONVENTIONS, Convention
from lgrpo_prm.reward import HuggingFacePRM

LGRPO_CONTRACT = 1

__all__ = ["CONVENTIONS", "Convention", "HuggingFacePRM"]


@hookimpl
def lgrpo_components() -> list[type]:
    """Offer the reward model."""
    return [HuggingFacePRM]
