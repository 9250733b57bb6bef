"""Policy losses written as the formulas of their papers: loops over scalars of one completion, in double precision.

Each takes the log-probs ``now`` and ``old`` of a completion's tokens, scalars that may carry gradients, and the
advantage ``worth`` of each token, and gives the term of every token. The objective of the paper is what is maximised; a
term is its negative. ``sg`` is a stop of the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

Row = Sequence[Tensor]
Worth = Sequence[float]


def sg(x: Tensor) -> Tensor:
    return x.detach()


def smaller(a: Tensor, b: Tensor) -> Tensor:
    return a if float(a.detach()) <= float(b.detach()) else b


def clip(x: Tensor, low: float, high: float) -> Tensor:
    """Without a gradient once it is outside."""
    inside = min(max(float(x.detach()), low), high)
    return x if inside == float(x.detach()) else sg(x) * 0 + inside


def clipped(now: Row, old: Row, worth: Worth, *, low: float, high: float, delta: float | None) -> list[Tensor]:
    """PPO (arXiv:1707.06347), eq. 7; dual clip (arXiv:1912.09729), eq. 5: max(min(…), δ A) where A < 0."""
    terms = []
    for x, y, a in zip(now, old, worth, strict=True):
        ratio = (x - y).exp()
        value = smaller(ratio * a, clip(ratio, 1 - low, 1 + high) * a)
        if delta is not None and a < 0 and float(value.detach()) < delta * a:
            value = sg(value) * 0 + delta * a
        terms.append(-value)
    return terms


def sequence_ratio(now: Row, old: Row) -> Tensor:
    """(π(y)/π_old(y))^(1/|y|), GSPO (arXiv:2507.18071), eq. 7."""
    product = (now[0] - old[0]).exp()
    for x, y in zip(now[1:], old[1:], strict=True):
        product = product * (x - y).exp()
    return product ** (1 / len(now))


def gspo(now: Row, old: Row, worth: Worth, *, low: float, high: float) -> list[Tensor]:
    """Eq. 5: the completion's term, at each token, for the mean over tokens to be that term; A is the tokens' mean."""
    s, a = sequence_ratio(now, old), sum(worth) / len(worth)
    return [-smaller(s * a, clip(s, 1 - low, 1 + high) * a)] * len(now)


def gspo_token(now: Row, old: Row, worth: Worth, *, low: float, high: float) -> list[Tensor]:
    """Eq. 13 and 14: s_{i,t} = sg[s_i] π_t / sg[π_t]."""
    s = sg(sequence_ratio(now, old))
    terms = []
    for x, a in zip(now, worth, strict=True):
        own = s * x.exp() / sg(x.exp())
        terms.append(-smaller(own * a, clip(own, 1 - low, 1 + high) * a))
    return terms


def luspo(now: Row, old: Row, worth: Worth, *, low: float, high: float) -> list[Tensor]:
    """arXiv:2602.05261: GSPO's term times |y|; its parts stand at the tokens."""
    return gspo(now, old, worth, low=low, high=high)


def gmpo(now: Row, old: Row, worth: Worth, *, log_clip: float) -> list[Tensor]:
    """arXiv:2507.20673, eq. 4: {∏ min[ρ^s, clip(ρ^s, e^-ε, e^ε)]^s}^(1/|y|) A with s = sgn(A)."""
    a = sum(worth) / len(worth)
    s = math.copysign(1, a)
    product = sg(now[0]) * 0 + 1
    for x, y in zip(now, old, strict=True):
        powered = (x - y).exp() ** s
        product = product * smaller(powered, clip(powered, math.exp(-log_clip), math.exp(log_clip))) ** s
    return [-(product ** (1 / len(now))) * a] * len(now)


def cispo(now: Row, old: Row, worth: Worth, *, ratio_max: float) -> list[Tensor]:
    """MiniMax-M1 (arXiv:2506.13585), eq. 4 and 5, bounded above only."""
    return [-min(float((x - y).detach().exp()), ratio_max) * a * x for x, y, a in zip(now, old, worth, strict=True)]


def sapo(now: Row, old: Row, worth: Worth, *, pos: float, neg: float) -> list[Tensor]:
    """arXiv:2511.20347, eq. 6: f(ρ) = σ(τ (ρ - 1)) 4/τ."""
    terms = []
    for x, y, a in zip(now, old, worth, strict=True):
        tau = pos if a > 0 else neg
        terms.append(-4 / tau / (1 + (-tau * ((x - y).exp() - 1)).exp()) * a)
    return terms


def vespo(now: Row, old: Row, worth: Worth, *, pos: tuple[float, float], neg: tuple[float, float]) -> list[Tensor]:
    """arXiv:2602.10693: φ(W) A log π with φ(W) = W^k e^{λ(1 - W)} without gradient."""
    w = 1.0
    for x, y in zip(now, old, strict=True):
        w *= math.exp(float((x - y).detach()))
    terms = []
    for x, a in zip(now, worth, strict=True):
        k, rate = pos if a >= 0 else neg
        terms.append(-(w**k) * math.exp(rate * (1 - w)) * a * x)
    return terms


def reinforce(now: Row, old: Row, worth: Worth) -> list[Tensor]:
    return [-a * x for x, a in zip(now, worth, strict=True)]


def kl(now: Tensor, ref: Tensor, estimator: str) -> Tensor:
    """Schulman 2020, with r = π_ref/π: k1 = -log r, k2 = (log r)²/2, k3 = (r - 1) - log r."""
    r = (ref - now).exp()
    return {"k1": -r.log(), "k2": r.log() ** 2 / 2, "k3": (r - 1) - r.log()}[estimator]


def total(terms: Sequence[Sequence[Tensor]], *, by: str, length: int) -> Tensor:
    """One number from the terms of completions."""
    tokens = sum(len(row) for row in terms)
    if by == "sequence":
        return sum((sum(row) / len(row) for row in terms), start=0 * terms[0][0]) / len(terms)
    everything = sum((x for row in terms for x in row), start=0 * terms[0][0])
    return everything / {"token": tokens, "constant": length * len(terms), "completion": len(terms)}[by]
