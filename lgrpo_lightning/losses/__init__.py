"""Policy losses: what a token's log-prob and credit cost."""

from lgrpo_lightning.losses.cispo import CISPO
from lgrpo_lightning.losses.clipped_surrogate import ClippedSurrogate
from lgrpo_lightning.losses.gmpo import GMPO
from lgrpo_lightning.losses.gspo import GSPO
from lgrpo_lightning.losses.luspo import LUSPO
from lgrpo_lightning.losses.reinforce import Reinforce
from lgrpo_lightning.losses.sapo import SAPO
from lgrpo_lightning.losses.vespo import VESPO

__all__ = ["CISPO", "GMPO", "GSPO", "LUSPO", "SAPO", "VESPO", "ClippedSurrogate", "Reinforce"]
