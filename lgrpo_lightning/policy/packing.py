"""Dividing rows into forward passes within a budget of tokens, longest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from lgrpo_lightning.functional.common_prefix import count_common
from lgrpo_lightning.policy.layout import Tokens, group_rows, identify

S = TypeVar("S")
Shape = tuple[int, int, int, int]

CACHED = 4
"""Positions of repeated keys and values for each token of a pass, at most; a token needs several times their memory."""


def pack_padded(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Passes of at most ``budget`` tokens each, padding included. A longer row gets a pass of its own.

    >>> pack_padded([3, 9, 4, 10], budget=20)
    [[3, 1], [2, 0]]
    """
    packs: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if packs and lengths[packs[-1][0]] * (len(packs[-1]) + 1) <= budget:
            packs[-1].append(row)
        else:
            packs.append([row])
    return packs


def pack_groups(prompts: Sequence[Tokens], completions: Sequence[Tokens], budget: int) -> list[list[int]]:
    """Passes of at most ``budget`` tokens each, what rows share counted once, whole groups where they fit.

    A group larger than the budget is divided by members; neighbours in lexicographic order stay together, since
    they share most. Each piece has its own copy of what it shares with the others.

    >>> pack_groups([(1, 2)] * 3 + [(3,)], [(5,), (5, 6), (7, 8, 9), (4,)], budget=5)
    [[2], [0, 1], [3]]
    """
    pieces: list[tuple[int, list[int]]] = []
    for rows in group_rows(prompts):
        # in lexicographic order a completion shares most with the one before it
        ordered = sorted(rows, key=lambda i: tuple(completions[i]))
        size, piece = len(prompts[rows[0]]), list[int]()
        for row in ordered:
            common = count_common(completions[piece[-1]], completions[row]) if piece else 0
            new = len(completions[row]) - common
            if piece and size + new > budget:
                pieces.append((size, piece))
                size, piece, new = len(prompts[row]), [], len(completions[row])
            size, piece = size + new, [*piece, row]
        pieces.append((size, piece))
    largest_first = sorted(pieces, key=lambda piece: -piece[0])
    return _fill_passes(largest_first, lambda a, b: a + b if a + b <= budget else None)


def pack_prompts(prompts: Sequence[Tokens], completions: Sequence[Tokens], budget: int) -> list[list[int]]:
    """Passes of at most ``budget`` tokens each, padding included; prompts and completions are padded apart.

    Keys and values of a prompt are repeated for its completions: they have at most ``CACHED`` times as many positions.
    Prompts of like length share a pass. A group that is too large is divided by members, each part with its prompt; a
    row that is longer gets a pass of its own.

    >>> pack_prompts([(1, 2)] * 3 + [(3,)], [(5,), (5, 6), (7, 8, 9), (4,)], budget=7)
    [[2], [1, 0], [3]]
    """
    pieces = []
    for rows in group_rows(prompts):
        lengths, size = [len(completions[i]) for i in rows], len(prompts[rows[0]])
        for part in pack_padded(lengths, budget - size):
            most = max(1, CACHED * budget // (size + lengths[part[0]]))
            pieces += [[rows[i] for i in part[at : at + most]] for at in range(0, len(part), most)]
    # of each piece: prompts, the longest, completions, the longest
    shapes = [(1, len(prompts[p[0]]), len(p), max(len(completions[i]) for i in p)) for p in pieces]

    def join(a: Shape, b: Shape) -> Shape | None:
        u, p, k, c = a[0] + b[0], max(a[1], b[1]), a[2] + b[2], max(a[3], b[3])
        return (u, p, k, c) if u * p + k * c <= budget and k * (p + c) <= CACHED * budget else None

    longest_first = sorted(zip(shapes, pieces, strict=True), key=lambda piece: -piece[0][1])
    return _fill_passes(longest_first, join)


def count_tree_tokens(prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> int:
    """Distinct tokens of all trees: Σ P + U."""
    total = 0
    for rows in group_rows(prompts):
        ordered = sorted(tuple(completions[i]) for i in rows)
        total += len(prompts[rows[0]]) + len(ordered[0])
        total += sum(len(b) - count_common(a, b) for a, b in pairwise(ordered))
    return total


def count_prefix_tokens(prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> int:
    """Tokens of all distinct prompts and of all completions: Σ P + Σ C.

    >>> count_prefix_tokens([(1, 2), (1, 2), (3,)], [(5,), (6, 7), (8,)])
    7
    """
    return sum(map(len, {identify(p) for p in prompts})) + sum(map(len, completions))


def _fill_passes(pieces: Sequence[tuple[S, list[int]]], join: Callable[[S, S], S | None]) -> list[list[int]]:
    """Put each piece of rows into the first pass that takes it.

    Args:
        pieces: What a pass has to know of each, and its rows.
        join: The same of two together; None where a pass does not hold both.
    """
    packs: list[tuple[S, list[int]]] = []
    for own, rows in pieces:
        for n, (used, members) in enumerate(packs):
            if (together := join(used, own)) is not None:
                packs[n] = together, members + rows
                break
        else:
            packs.append((own, rows))
    return [rows for _, rows in packs]
