"""B(G): the process sets of a group of completions, their steps, statistics and depth-first layout.

Definitions (arXiv:2509.21154, section 3): the process set of token (i, t) is
λ(i, t) = { j : y_j[:t+1] = y_i[:t+1] }, the completions that share the prefix up to and including t.
Process sets are ordered by inclusion; a process step is a maximal run of tokens with one process set.

If some tokens are not trained, λ(i, t) contains only the members that train the token at that position of the step,
or all members if none trains it. The mask does not change steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lgrpo_lightning.errors import refuse_text


@dataclass(frozen=True, kw_only=True)
class Step:
    """A process step.

    Attributes:
        parent: Index in ``ProcessTree.steps`` of the step before it; -1: it is a first step.
        members: Numbers of the completions that share it, ascending.
        spans: For each member the indices of the step's first token and of its last token plus 1.

    >>> tree = ProcessTree.from_steps([["a", "b"], ["a", "c"]], [[0, 0, 1], [0, 1]])
    >>> tree.steps[0]
    Step(parent=-1, members=(0, 1), spans=((0, 2), (0, 1)))
    """

    parent: int
    members: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Trie:
    """The distinct prefixes of a list of sequences, numbered depth first. ``U`` nodes.

    In this numbering k is an ancestor-or-self of q exactly when ``k <= q < subtree_end[k]``.

    Attributes:
        node_ids: ``[G, T]`` node of each token, -1 on padding.
        ids: ``[U]`` token id of each node.
        parents: ``[U]`` parent node, -1 for a first token.
        depths: ``[U]`` position in the sequence, from 0.
        subtree_end: ``[U]`` first node after the node's subtree.
    """

    node_ids: Tensor
    ids: Tensor
    parents: Tensor
    depths: Tensor
    subtree_end: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def members(self) -> Tensor:
        """``[U]`` number of sequences through each node."""
        return torch.bincount(self.node_ids[self.node_ids >= 0], minlength=len(self))

    @classmethod
    def from_sequences(cls, sequences: Sequence[Sequence[int]]) -> Trie:
        """Build the trie: sort the rows, compare neighbours, number what is new. O(G·T) after the sort."""
        order = sorted(range(len(sequences)), key=lambda i: list(sequences[i]))
        lengths = torch.tensor([len(sequences[i]) for i in order], dtype=torch.long)
        width = int(lengths.max()) if len(order) else 0
        tokens = torch.full((len(order), width), -1, dtype=torch.long)
        for row, i in enumerate(order):
            tokens[row, : len(sequences[i])] = torch.tensor(sequences[i], dtype=torch.long)
        real = torch.arange(width) < lengths[:, None]
        shared = torch.zeros_like(real)  # row agrees with the row above on every token so far
        shared[1:] = ((tokens[1:] == tokens[:-1]) & real[1:]).cumprod(1).bool()
        new = real & ~shared
        number = new.flatten().cumsum(0).view_as(tokens) - 1
        nodes = torch.where(new, number, -1).cummax(0).values if len(order) else number
        nodes = torch.where(real, nodes, -1)
        row_of, depths = new.nonzero(as_tuple=True)
        parents = torch.where(depths > 0, nodes[row_of, (depths - 1).clamp(min=0)], -1)
        last_row = torch.zeros(len(depths), dtype=torch.long)
        rows = torch.arange(len(order))[:, None].expand_as(nodes)
        last_row.scatter_reduce_(0, nodes[real], rows[real], "amax", include_self=True)
        ends = new.sum(1).cumsum(0)
        back = torch.empty_like(nodes)
        back[torch.tensor(order, dtype=torch.long)] = nodes
        return cls(
            node_ids=back,
            ids=tokens[row_of, depths],
            parents=parents,
            depths=depths,
            subtree_end=ends[last_row],
        )


@dataclass(frozen=True)
class ProcessTree:
    """The process tree of a group.

    Build it with ``from_sequences`` (exact tokens: the paper's B(G)) or ``from_steps`` (steps by key).

    Args:
        sizes: ``[G, T]`` long, number of members of each token's process set, 0 on padding.
        units: ``[G, T]`` long, index in ``steps`` of each token's step, -1 on padding.
        num_nodes: Number of distinct prefixes (``from_sequences``) or steps (``from_steps``).
        leaf_sizes: ``[G]`` long, number of members equal to each completion, itself included.
        mask: ``[G, T]`` bool, the tokens that are trained, set by ``masked``; None: all.

    >>> tree = ProcessTree.from_sequences([[1, 2, 3], [1, 2, 4], [5]])
    >>> tree.set_sizes().tolist()
    [[2, 2, 1], [2, 2, 1], [1, 0, 0]]
    >>> tree.path_depth().tolist(), tree.num_nodes
    ([1, 1, 0], 5)
    >>> tree.masked(torch.tensor([[True, True, True], [False, True, True], [True, False, False]])).set_sizes().tolist()
    [[1, 2, 1], [1, 2, 1], [1, 0, 0]]
    """

    sizes: Tensor
    units: Tensor
    num_nodes: int
    leaf_sizes: Tensor
    mask: Tensor | None = None

    @classmethod
    def from_sequences(cls, sequences: Sequence[Sequence[int]]) -> ProcessTree:
        """B(G) over exact tokens. A completion that is a prefix of another one shares all its tokens."""
        trie = Trie.from_sequences(sequences)
        members = trie.members()
        return cls(
            sizes=_at_nodes(members, trie.node_ids, padding=0),
            units=_at_nodes(_steps_of_runs(trie, members), trie.node_ids, padding=-1),
            num_nodes=len(trie),
            leaf_sizes=_twins(sequences),
        )

    @classmethod
    def from_steps(cls, keys: Sequence[Sequence[Hashable]], steps: Sequence[Sequence[int]]) -> ProcessTree:
        """A tree in which steps are equal if their keys and the keys of all earlier steps are equal.

        Args:
            keys: For each completion the keys of its steps, in order.
            steps: For each completion the step index of every token: non-decreasing, from 0, none left out.

        Raises:
            ValueError: The indices of a completion are not of that kind.

        >>> ProcessTree.from_steps([["a", "b"], ["a", "c"]], [[0, 0, 1], [0, 1]]).set_sizes().tolist()
        [[2, 2, 1], [2, 1, 0]]
        """
        for i, (row, indices) in enumerate(zip(keys, steps, strict=True)):
            refuse_text(f"keys[{i}]", row)
            if sorted(set(indices)) != list(range(len(row))) or list(indices) != sorted(indices):
                raise ValueError(
                    f"Completion {i} has {len(row)} steps and tokens in steps {list(indices)}; each step "
                    "must have a token, and they must follow one another."
                )
        number: dict[Hashable, int] = {}
        coded = [[number.setdefault(key, len(number)) for key in row] for row in keys]
        trie = Trie.from_sequences(coded)
        width = max((len(row) for row in steps), default=0)
        units = torch.full((len(steps), width), -1, dtype=torch.long)
        for i, row in enumerate(steps):
            units[i, : len(row)] = trie.node_ids[i][torch.tensor(row, dtype=torch.long)]
        sizes = _at_nodes(trie.members(), units, padding=0)
        return cls(sizes=sizes, units=units, num_nodes=len(trie), leaf_sizes=_twins(coded))

    def masked(self, mask: Tensor) -> ProcessTree:
        """This tree with only the tokens of ``mask`` (``[G, T]`` bool) trained. A run calls this for every tree.

        Raises:
            ValueError: ``mask`` has another shape.
        """
        if mask.shape != self.sizes.shape:
            raise ValueError(f"mask has shape {list(mask.shape)}; the tree's is {list(self.sizes.shape)}.")
        return replace(self, mask=None if bool((mask | (self.sizes == 0)).all()) else mask)

    @property
    def trained(self) -> Tensor:
        """``[G, T]`` bool: the tokens that are trained; False on padding."""
        return self.sizes > 0 if self.mask is None else self.mask & (self.sizes > 0)

    def set_sizes(self) -> Tensor:
        """``[G, T]`` long, |λ(i, t)|; 0 on padding (so ``> 0`` means "not padding", not "trained")."""
        return self.sizes if self.mask is None else self._trained_sizes

    @cached_property
    def _trained_sizes(self) -> Tensor:
        counts = self.set_sums(self.trained.long())
        return torch.where(counts > 0, counts, self.sizes)

    def weights(self, power: float = 1.0) -> Tensor:
        """``[G, T]`` fp32, 1/|λ(i, t)|^power; 0 on padding and where no member trains the token.

        With power 0 every token has weight 1; with power 1 the weights of each shared token add up to 1.

        >>> ProcessTree.from_sequences([[1, 2], [1], [3]]).weights().tolist()
        [[0.5, 1.0], [0.5, 0.0], [1.0, 0.0]]
        """
        return self.trained.float() / self.set_sizes().clamp(min=1).to(torch.float32).pow(power)

    def set_means(self, values: Tensor, *, trained: bool = True) -> Tensor:
        """``[G, T]``, the mean of ``values`` ``[G]`` over the process set of every token; 0 on padding.

        NaN values are ignored; the mean is NaN if all are. It is fp64 for fp64 values, else fp32.

        Args:
            trained: If False, the mean is over all members of the step, as for the value of a prefix.

        >>> ProcessTree.from_sequences([[1, 2], [1], [3]]).set_means(torch.tensor([1.0, 0.0, 5.0])).tolist()
        [[0.5, 1.0], [0.5, 0.0], [5.0, 0.0]]
        """
        doubles, kept = values.double(), torch.float64 if values.dtype == torch.float64 else torch.float32
        means = torch.stack([doubles[list(step.members)].nanmean() for step in self.steps] or [doubles.new_zeros(())])
        out = torch.where(self.units >= 0, means[self.units.clamp(min=0)], 0.0)
        if trained and self.mask is not None:
            own = self.set_sums(self.trained.double())
            valid = self.trained & ~doubles.isnan()[:, None]
            total = self.set_sums(torch.where(valid, doubles[:, None], 0.0))
            out = torch.where(own > 0, total / self.set_sums(valid.double()), out)
        return out.to(kept)

    def set_sums(self, values: Tensor) -> Tensor:
        """``[G, T]``, ``values`` ``[G, T]`` summed over the members of every token's step, position by position.

        For a member whose step is shorter, its last token is used.
        """
        out = torch.zeros_like(values)
        for step in self.steps:
            spans = torch.tensor(step.spans)
            lengths = spans[:, 1] - spans[:, 0]
            places = torch.arange(int(lengths.max())).minimum(lengths[:, None] - 1) + spans[:, :1]
            sums = values[torch.tensor(step.members)[:, None], places].sum(0)
            for member, (start, end) in zip(step.members, step.spans, strict=True):
                out[member, start:end] = sums[: end - start]
        return out

    def at_ends(self, values: Tensor) -> Tensor:
        """``[G, T]`` fp32, ``values`` ``[S]`` of the steps at the last trained token of each step of each completion.

        NaN elsewhere, also if a completion trains no token of a step.

        >>> tree = ProcessTree.from_steps([["a", "b"], ["a"]], [[0, 0, 1], [0]])
        >>> tree.at_ends(torch.tensor([1.0, 2.0])).tolist()
        [[nan, 1.0, 2.0], [1.0, nan, nan]]
        """
        out, trained = torch.full(self.sizes.shape, torch.nan), self.trained.tolist()
        for step, value in zip(self.steps, values.tolist(), strict=True):
            for member, (start, end) in zip(step.members, step.spans, strict=True):
                last = next((t for t in reversed(range(start, end)) if trained[member][t]), None)
                if last is not None:
                    out[member, last] = value
        return out

    @property
    def step_ids(self) -> Tensor:
        """``[G, T]`` long, index in ``steps`` of each token's step, -1 on padding."""
        return self.units

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The steps, parents before children."""
        spans: dict[int, list[tuple[int, tuple[int, int]]]] = {}
        parents: dict[int, int] = {}
        for member, row in enumerate(self.units.tolist()):
            start, above = 0, -1
            for t in range(1, len(row) + 1):
                if t < len(row) and row[t] == row[start]:
                    continue
                if row[start] >= 0:
                    spans.setdefault(row[start], []).append((member, (start, t)))
                    parents[row[start]] = above
                above, start = row[start], t
        return tuple(
            Step(parent=parents[s], members=tuple(m for m, _ in spans[s]), spans=tuple(x for _, x in spans[s]))
            for s in sorted(spans)
        )

    def path_depth(self) -> Tensor:
        """``[G]`` long: number of process sets between the group and each completion's leaf, trained or not."""
        group = len(self.sizes)
        inner = (self.sizes > self.leaf_sizes[:, None]) & (self.sizes < group)
        first = torch.ones_like(inner)
        first[:, 1:] = self.sizes[:, 1:] != self.sizes[:, :-1]
        return (inner & first).sum(1)

    def intermediate_proportion(self) -> Tensor:
        """``[G]`` fp32: share of each completion's trained tokens whose process set has more than one member."""
        return (self.trained & (self.set_sizes() > 1)).sum(1) / self.trained.sum(1).clamp(min=1)


def _at_nodes(values: Tensor, nodes: Tensor, *, padding: int) -> Tensor:
    """``values`` ``[U]`` looked up at ``nodes`` ``[G, T]``; ``padding`` where the node is -1."""
    if not len(values):
        return torch.full_like(nodes, padding)
    return torch.where(nodes >= 0, values[nodes.clamp(min=0)], padding)


def _steps_of_runs(trie: Trie, members: Tensor) -> Tensor:
    """Step number of each node, ``[U]``: a step starts where the process set differs from the parent's.

    In depth-first order a node with its parent's process set follows the parent directly.
    """
    starts = (trie.parents < 0) | (members != members[trie.parents.clamp(min=0)])
    return starts.cumsum(0) - 1


def _twins(sequences: Sequence[Sequence[Hashable]]) -> Tensor:
    """``[G]`` long: for each sequence, how many equal it, itself included."""
    frozen = [tuple(s) for s in sequences]
    counts = Counter(frozen)
    return torch.tensor([counts[s] for s in frozen], dtype=torch.long)
