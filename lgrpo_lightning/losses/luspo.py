"""LUSPO: GSPO whose completions count by their length."""

from __future__ import annotations

from lgrpo_lightning.functional.losses import Normalizer
from lgrpo_lightning.losses.gspo import GSPO


class LUSPO(GSPO):
    r"""GSPO's term times the completion's length, so that long completions count more (arXiv:2602.05261).

    .. math:: -|y_i| \min(s_i A_i,\; \mathrm{clip}(s_i, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A_i)

    The term stands at each token, and their sum is divided by the number of completions.

    Args:
        clip_range_low, clip_range_high: How far s may be from 1 before a completion's gradient is cut; the defaults
            are the paper's (section 5.1).
        token: The token form, as in ``GSPO``.
        normalizer: Divisor of the sum over tokens; null: "completion", the paper's.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        clip_range_low: float = 2e-3,
        clip_range_high: float = 2.5e-3,
        token: bool = False,
        normalizer: Normalizer | None = None,
    ) -> None:
        super().__init__(clip_range_low, clip_range_high, token, normalizer or "completion")
