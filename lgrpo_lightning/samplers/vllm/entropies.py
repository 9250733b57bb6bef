"""Entropies from the log-probs of the most probable tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def entropy(logprobs: Iterable[float]) -> float:
    """Entropy, in nats, of a distribution of which only some tokens' log-probs are known.

    What is missing to a probability of 1 counts as one token, so that this is at most the entropy, and all of it where
    every token is known.

    >>> round(entropy([math.log(0.5)] * 2), 4), round(entropy([math.log(0.5)]), 4), round(entropy([0.0, -math.inf]), 4)
    (0.6931, 0.6931, 0.0)
    """
    known = [p for p in logprobs if p > -math.inf]
    rest = 1.0 - math.fsum(map(math.exp, known))
    parts = [-p * math.exp(p) for p in known]
    return max(0.0, math.fsum(parts) - (rest * math.log(rest) if rest > 1e-6 else 0.0))


def entropies_of(tops: Iterable[Mapping[Any, float]]) -> tuple[float, ...]:
    """The entropy at each token, from log-probs by token."""
    return tuple(entropy(top.values()) for top in tops)


def logprob_limit(count: int, default: int = 20) -> int:
    """vLLM's ``max_logprobs`` that lets ``count`` log-probs a token be asked for; -1 are all.

    >>> logprob_limit(0), logprob_limit(50), logprob_limit(-1)
    (20, 50, -1)
    """
    return -1 if count == -1 else max(count, default)
