"""Random groups of completions with much to share: duplicates, proper prefixes, empty ones, token id 0."""

import random

import torch

from lgrpo_lightning.types import pad


def random_group(seed, *, size=None, longest=9, vocabulary=3, empty=True):
    """A list of token lists; the same for the same seed."""
    draw = random.Random(seed)
    size = size or draw.randint(1, 8)
    group = []
    for _ in range(size):
        kind = draw.random()
        if group and kind < 0.15:
            group.append(list(draw.choice(group)))
        elif group and kind < 0.4:
            other = draw.choice(group)
            group.append(other[: draw.randint(0 if empty else 1, len(other))])
        else:
            shortest = 0 if empty else 1
            group.append([draw.randrange(vocabulary) for _ in range(draw.randint(shortest, longest))])
    return group


def shared_logprobs(sequences, seed, *, low=-3.0):
    """[i][t] log-probs that depend on the prefix alone, as a policy's do."""
    draw, known = random.Random(seed), {}
    return [[known.setdefault(tuple(y[: t + 1]), draw.uniform(low, -0.1)) for t in range(len(y))] for y in sequences]


def matrix(rows, dtype=torch.float32):
    """[N, T], zeros on padding, of a list of rows."""
    return pad([torch.tensor(r, dtype=dtype) for r in rows], max(map(len, rows), default=0))
