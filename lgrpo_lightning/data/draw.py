"""Drawing without replacement, the same wherever it is done."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def weighted_order(weights: NDArray[np.float64], key: Sequence[int]) -> NDArray[np.int64]:
    """The order in which things are drawn one by one without replacement, each time in proportion to the weights left.

    Gumbel noise is added to the logarithms of the weights, and the sums are sorted (Efraimidis and Spirakis 2006).

    Args:
        weights: ``[N]``, at least 0; what has none comes last.
        key: Seeds the draw.

    Returns:
        ``[N]`` indices.

    >>> sorted(weighted_order(np.array([1.0, 0.0, 5.0]), (0, 1)).tolist())
    [0, 1, 2]
    """
    noise = np.random.default_rng(list(key)).gumbel(size=len(weights))
    with np.errstate(divide="ignore"):
        return np.argsort(-(np.log(weights) + noise), kind="stable")
