"""Completions laid out as a forest: every distinct token of a prompt and its completions once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lgrpo_lightning.policy.flex_attention import BLOCK
from lgrpo_lightning.policy.layout import Layout, Tokens, group_rows, place
from lgrpo_lightning.policy.tree_plan import TreePlan
from lgrpo_lightning.process_tree import Trie


@dataclass(frozen=True, kw_only=True)
class TreeLayout(Layout):
    """A packed forest ``[1, L]``; ``position_ids`` are depths, ``gather`` leads each (row, token) to its trie node.

    The score of a node is predicted by its parent's hidden state. Gathering scores from nodes to rows gives the
    matrix of the padded layout, and its backward adds up what the members of a node contribute.
    """

    plan: TreePlan

    @property
    def model_arguments(self) -> dict[str, object]:
        """The plan; a 4-D mask keeps transformers from building one of its own."""
        return {
            "attention_mask": torch.zeros(1, 1, 1, 1, device=self.input_ids.device),
            "tree_plan": self.plan,
        }


def make_tree_layout(
    prompts: Sequence[Tokens],
    completions: Sequence[Tokens],
    *,
    device: torch.device | str = "cpu",
    multiple: int | None = None,
) -> TreeLayout:
    """One tree per distinct prompt, one after the other.

    Args:
        multiple: Of what the length of the sequence is made a multiple, by tokens that no other reads; None: of the
            kernel's blocks on CUDA, of 1 elsewhere.
    """
    width = max(len(c) for c in completions)
    gather = torch.full((len(prompts), width), -1, dtype=torch.long)
    parts: dict[str, list[Tensor]] = {name: [] for name in ("ids", "depths", "ends", "predictors", "targets")}
    trees: list[tuple[int, Trie, int]] = []
    offset = nodes = 0
    for rows in group_rows(prompts):
        prompt = torch.tensor(list(prompts[rows[0]]))
        trie = Trie.from_sequences([completions[i] for i in rows])
        size, first = len(prompt), offset + len(prompt)
        total = size + len(trie)
        parts["ids"] += [prompt, trie.ids]
        parts["depths"] += [torch.arange(size), size + trie.depths]
        parts["ends"] += [torch.full((size,), offset + total), first + trie.subtree_end]
        parts["predictors"] += [torch.where(trie.parents < 0, first - 1, first + trie.parents)]
        parts["targets"] += [trie.ids]
        span = trie.node_ids.shape[1]
        gather[torch.tensor(rows), :span] = torch.where(trie.node_ids < 0, -1, trie.node_ids + nodes)
        trees.append((size, trie, offset))
        offset, nodes = offset + total, nodes + len(trie)
    multiple = (BLOCK if torch.device(device).type == "cuda" else 1) if multiple is None else multiple
    # each spare token is a tree of its own: a query without any key would be NaN
    spare = torch.arange(offset, offset + -offset % multiple)
    parts["ids"].append(torch.zeros_like(spare))
    parts["depths"].append(torch.zeros_like(spare))
    parts["ends"].append(spare + 1)
    whole = {name: torch.cat(tensors) for name, tensors in parts.items()}
    placed = place(device, gather=torch.where(gather < 0, nodes, gather), **whole)
    return TreeLayout(
        input_ids=placed["ids"][None],
        position_ids=placed["depths"][None],
        attention_mask=None,
        predictors=placed["predictors"],
        targets=placed["targets"],
        gather=placed["gather"],
        plan=TreePlan(depth=placed["depths"], subtree_end=placed["ends"], trees=tuple(trees)),
    )
