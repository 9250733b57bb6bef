"""What two sequences, of tokens or of characters, begin with alike."""

from __future__ import annotations

from collections.abc import Sequence


def count_common(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the longest common prefix.

    >>> count_common("abc", "abd"), count_common([1, 2], (1, 2, 3)), count_common("", "a")
    (2, 2, 0)
    """
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
