"""The definitions, written as loops: slow, short, and independent of the package."""

import math


def process_set(sequences, i, t):
    """λ(i, t): the completions that share the prefix of completion i up to and including token t."""
    prefix = list(sequences[i][: t + 1])
    return frozenset(j for j, y in enumerate(sequences) if len(y) > t and list(y[: t + 1]) == prefix)


def set_sizes(sequences):
    return [[len(process_set(sequences, i, t)) for t in range(len(y))] for i, y in enumerate(sequences)]


def num_nodes(sequences):
    return len({tuple(y[: t + 1]) for y in sequences for t in range(len(y))})


def path_depth(sequences):
    """Process sets strictly between the root (the whole group) and the leaf (the exact duplicates)."""
    depths = []
    for i, y in enumerate(sequences):
        root = frozenset(range(len(sequences)))
        leaf = frozenset(j for j, z in enumerate(sequences) if list(z) == list(y))
        depths.append(len({process_set(sequences, i, t) for t in range(len(y))} - {root, leaf}))
    return depths


def intermediate_proportion(sequences):
    return [sum(n > 1 for n in row) / max(len(row), 1) for row in set_sizes(sequences)]


def step_runs(sequences):
    """For each completion the (start, end) of its maximal runs of tokens with one process set."""
    runs = []
    for i, y in enumerate(sequences):
        sets = [process_set(sequences, i, t) for t in range(len(y))]
        starts = [t for t in range(len(y)) if t == 0 or sets[t] != sets[t - 1]]
        runs.append(list(zip(starts, [*starts, len(y)][1:], strict=True)) if starts else [])
    return runs


def mean(values):
    return sum(values) / len(values)


def deviation(values):
    """With Bessel's correction; 0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    centre = mean(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1))


def advantages(rewards, *, scale="group", eps=1e-4, pool=None):
    """Advantage of each completion; NaN leaves the statistics and gets 0. ``pool``: rewards of the batch."""
    valid = [r for r in rewards if not math.isnan(r)]
    if len(set(valid)) < 2:
        return [0.0] * len(rewards)
    of = valid if scale == "group" else [r for r in pool or [] if not math.isnan(r)]
    divisor = 1.0 if scale == "none" else deviation(of) + eps
    return [0.0 if math.isnan(r) else (r - mean(valid)) / divisor for r in rewards]


def step_advantages(rewards, sequences, *, eps=1e-4):
    """[i][t]: (mean reward of λ(i, t) - mean) / (std + eps)."""
    centre, divisor = mean(rewards), deviation(rewards) + eps
    return [
        [(mean([rewards[j] for j in process_set(sequences, i, t)]) - centre) / divisor for t in range(len(y))]
        for i, y in enumerate(sequences)
    ]


def term(logprob, old, ref, advantage, *, low=0.2, high=0.2, beta=0.0):
    """min(ρA, clip(ρ)A) - βD, to be maximised."""
    ratio = math.exp(logprob - old)
    clipped = min(max(ratio, 1 - low), 1 + high)
    d = ref - logprob
    return min(ratio * advantage, clipped * advantage) - beta * (math.exp(d) - d - 1)


def loss(sequences, logprobs, old, ref, advantage, *, by="token", weighted=False, length=None, **options):
    """The GRPO loss of one group, or with ``weighted`` the λ-GRPO loss. ``advantage[i][t]``."""
    sizes = set_sizes(sequences)
    rows = [
        [
            term(logprobs[i][t], old[i][t], ref[i][t], advantage[i][t], **options) / (sizes[i][t] if weighted else 1)
            for t in range(len(y))
        ]
        for i, y in enumerate(sequences)
    ]
    if by == "token":
        return -sum(map(sum, rows)) / sum(map(len, rows))
    if by == "sequence":
        return -mean([sum(r) / max(len(r), 1) for r in rows])
    return -sum(map(sum, rows)) / (len(rows) * length)
