"""Chooses the layout of a rollout: padded rows, trees, or each prompt once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.attention import PREFIX
from lgrpo_lightning.policy.head import find_backbone
from lgrpo_lightning.policy.layout import Tokens
from lgrpo_lightning.policy.packing import count_prefix_tokens, count_tree_tokens

LayoutName = Literal["padded", "tree", "prefix"]

COUNTS = {"tree": count_tree_tokens, "prefix": count_prefix_tokens}
"""Layout → the tokens that go through the model."""
GAIN = 1.2
"""Minimal estimated gain over padded rows, because repeating keys and values takes time, too."""


@dataclass(frozen=True, kw_only=True)
class LayoutChoice:
    """A layout, what it computes, and why it was taken.

    Attributes:
        layout: "padded", "tree" or "prefix".
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
    unsupported: Mapping[LayoutName, str],
) -> LayoutChoice:
    """The layout of a rollout.

    Args:
        wanted: "padded", "tree", "prefix", or "auto": trees where an estimate of linear layers and attention promises a
            gain.
        unsupported: Layout that the model cannot run → why.

    Raises:
        ValueError: The layout that is wanted is not supported.
    """
    padded = sum(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))

    def keep_padded(reason: str) -> LayoutChoice:
        return LayoutChoice(layout="padded", computed=padded, padded=padded, reason=reason)

    if wanted == "padded":
        return keep_padded("as configured")
    if wanted == "auto" and "tree" in unsupported:
        return keep_padded(unsupported["tree"])
    name = cast(LayoutName, "tree" if wanted == "auto" else wanted)
    if name in unsupported:
        raise UserError(f"policy.layout is {name!r}, but {unsupported[name]}. Use policy.layout: padded or auto.")
    computed = COUNTS[name](prompts, completions)
    gain = estimate_gain(model, prompts, completions, computed)
    counts = f"{computed:,} of {padded:,} tokens computed, an estimated {gain:.1f} times cheaper"
    if wanted == "auto" and gain < GAIN:
        return keep_padded(f"trees would gain little ({counts})")
    return LayoutChoice(layout=name, computed=computed, padded=padded, reason=counts)


def estimate_gain(model: Any, prompts: Sequence[Tokens], completions: Sequence[Tokens], computed: int) -> float:
    """Cost of padded rows over that of another layout, in multiply-adds of linear layers and attention.

    Args:
        computed: Tokens that the other layout computes.
    """
    config = model.config.get_text_config()
    linear = count_linear_parameters(model)
    width = config.num_hidden_layers * config.hidden_size  # of scores and values together, per query and key
    rows = [(len(p), len(c)) for p, c in zip(prompts, completions, strict=True)]
    padded = sum(p + c for p, c in rows)
    pairs_padded = sum((p + c) ** 2 for p, c in rows)
    pairs = sum(len(p) ** 2 for p in {tuple(p) for p in prompts}) + sum(c * (p + c) for p, c in rows)
    return float((padded * linear + pairs_padded * width) / (computed * linear + pairs * width))


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


def explain_unsupported(model: Any, *, checkpointing: bool) -> dict[LayoutName, str]:
    """Layout that ``model`` cannot run → why.

    Args:
        checkpointing: Whether activations are recomputed in the backward pass.
    """
    reasons: dict[LayoutName, str] = {}
    if (no_tree := explain_no_tree(model)) is not None:
        reasons["tree"] = no_tree
    takes = inspect.signature(find_backbone(model).forward).parameters
    if checkpointing:
        reasons["prefix"] = "policy.gradient_checkpointing turns the model's cache off"
    elif not {"past_key_values", "cache_params"} & set(takes):
        reasons["prefix"] = f"{type(model).__name__} takes no cache of transformers"
    return reasons
