"""Dividing rows into forward passes within a budget of tokens, longest first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lgrpo_lightning.functional.common_prefix import count_common
from lgrpo_lightning.policy.layout import Tokens
from lgrpo_lightning.policy.tree_layout import group_rows

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
    return _fill_passes(pieces, budget)


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
    packs: list[list[int]] = []
    shapes: list[tuple[int, ...]] = []  # of each pass: prompts, the longest, completions, the longest
    for piece in sorted(pieces, key=lambda rows: -len(prompts[rows[0]])):
        own = 1, len(prompts[piece[0]]), len(piece), max(len(completions[i]) for i in piece)
        for n, (u, p, k, c) in enumerate(shapes):
            u, k, c = u + own[0], k + own[2], max(c, own[3])
            if u * p + k * c <= budget and k * (p + c) <= CACHED * budget:
                packs[n], shapes[n] = packs[n] + piece, (u, p, k, c)
                break
        else:
            packs.append(piece)
            shapes.append(own)
    return packs


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
    return sum(map(len, {tuple(p) for p in prompts})) + sum(map(len, completions))


def _fill_passes(pieces: list[tuple[int, list[int]]], budget: int) -> list[list[int]]:
    """Fill passes, largest piece first."""
    packs: list[tuple[int, list[int]]] = []
    for size, rows in sorted(pieces, key=lambda p: -p[0]):
        for n, (used, members) in enumerate(packs):
            if used + size <= budget:
                packs[n] = used + size, members + rows
                break
        else:
            packs.append((size, rows))
    return [rows for _, rows in packs]
