"""Chooses the layout of a rollout: padded rows or trees."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.attention import PREFIX
from lgrpo_lightning.policy.head import find_backbone
from lgrpo_lightning.policy.layout import Tokens
from lgrpo_lightning.policy.packing import count_tree_tokens

LayoutName = Literal["padded", "tree"]

GAIN = 1.2
"""Minimal estimated gain of trees, because gathering keys and values takes time, too."""


@dataclass(frozen=True, kw_only=True)
class LayoutChoice:
    """A layout, what it computes, and why it was taken.

    Attributes:
        layout: "padded" or "tree".
        computed: Tokens that go through the model.
        padded: Tokens that padded rows would need.
        reason: For the log.
    """

    layout: LayoutName
    computed: int
    padded: int
    reason: str

    @property
    def token_ratio(self) -> float:
        """Computed tokens over those of padded rows."""
        return self.computed / max(self.padded, 1)


def choose_layout(
    model: Any,
    wanted: str,
    prompts: Sequence[Tokens],
    completions: Sequence[Tokens],
    *,
    unsupported: str | None,
) -> LayoutChoice:
    """The layout of a rollout.

    Args:
        wanted: "padded", "tree" or "auto": trees where an estimate of linear layers and attention promises a gain.
        unsupported: Why the model cannot run trees, or None.

    Raises:
        ValueError: "tree" is wanted and the model cannot.
    """
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    padded = sum(lengths)
    if wanted == "tree" and unsupported:
        raise UserError(f"policy.layout is 'tree', but {unsupported}. Use policy.layout: padded or auto.")
    if wanted == "padded" or unsupported:
        return LayoutChoice(
            layout="padded", computed=padded, padded=padded, reason=unsupported or "as configured"
        )
    tree = count_tree_tokens(prompts, completions)
    gain = estimate_gain(model, prompts, completions, tree)
    counts = f"{tree:,} of {padded:,} tokens computed, an estimated {gain:.1f} times cheaper"
    if wanted == "auto" and gain < GAIN:
        return LayoutChoice(
            layout="padded", computed=padded, padded=padded, reason=f"trees would gain little ({counts})"
        )
    return LayoutChoice(layout="tree", computed=tree, padded=padded, reason=counts)


def estimate_gain(model: Any, prompts: Sequence[Tokens], completions: Sequence[Tokens], tree: int) -> float:
    """Cost of padded rows over that of trees, in multiply-adds of linear layers and attention."""
    config = model.config.get_text_config()
    linear = count_linear_parameters(model)
    width = config.num_hidden_layers * config.hidden_size  # of scores and values together, per query and key
    pairs_padded = sum((len(p) + len(c)) ** 2 for p, c in zip(prompts, completions, strict=True))
    distinct = {tuple(p) for p in prompts}
    pairs_tree = sum(len(p) ** 2 for p in distinct) + sum(
        len(c) * (len(p) + len(c)) for p, c in zip(prompts, completions, strict=True)
    )
    rows = sum(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    return float((rows * linear + pairs_padded * width) / (tree * linear + pairs_tree * width))


def count_linear_parameters(model: Any) -> int:
    """Parameters of the linear layers, the head included."""
    weights = ((name, p) for name, p in model.named_parameters() if p.dim() > 1)
    total: int = sum(p.numel() for name, p in weights if "embed" not in name)
    head = model.get_output_embeddings().weight
    return total + (head.numel() if head is model.get_input_embeddings().weight else 0)


def explain_no_tree(model: Any) -> str | None:
    """Why ``model`` cannot run trees; None where it can."""
    config = model.config.get_text_config()
    name = type(model).__name__
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"{name} has layers of another kind than attention over positions ({', '.join(sorted(kinds))})"
    if not getattr(model, "_supports_attention_backend", False):
        return f"{name} does not use transformers' attention interface"
    if not config._attn_implementation.startswith(PREFIX):
        instead = "sdpa does" if getattr(model, "_supports_sdpa", True) else f"{name} has no sdpa"
        return f"attention implementation {config._attn_implementation!r} does not take trees ({instead})"
    if "position_ids" not in inspect.signature(find_backbone(model).forward).parameters:
        return f"{name} takes no position_ids"
    return None
