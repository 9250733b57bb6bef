"""Chooses the layout of a rollout: padded rows, trees, or each prompt once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.attention import PREFIX
from lgrpo_lightning.policy.head import find_backbone
from lgrpo_lightning.policy.layout import Tokens, identify
from lgrpo_lightning.policy.packing import count_prefix_tokens, count_tree_tokens
from lgrpo_lightning.policy.quantization import count_numbers

LayoutName = Literal["padded", "tree", "prefix"]

COUNTS: dict[LayoutName, Callable[[Sequence[Tokens], Sequence[Tokens]], int]] = {
    "padded": lambda prompts, completions: sum(map(len, prompts)) + sum(map(len, completions)),
    "tree": count_tree_tokens,
    "prefix": count_prefix_tokens,
}
"""Layout → the tokens that go through the model."""
GAIN = 1.2
"""Minimal estimated gain over padded rows, because repeating keys and values takes time, too."""


@dataclass(frozen=True, kw_only=True)
class LayoutChoice:
    """A layout, what it computes, and why it was taken.

    Attributes:
        layout: "padded", "tree" or "prefix".
        computed: Tokens of this process that go through the model.
        padded: Tokens of this process that padded rows would need.
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
    total: Callable[[Tensor], Tensor] = lambda table: table,
) -> LayoutChoice:
    """The layout of a rollout.

    Args:
        wanted: "padded", "tree", "prefix", or "auto": the one for which an estimate of linear layers and attention
            promises the largest gain.
        unsupported: Layout that the model cannot run → why.
        total: Sum over the processes of the run, which have to make the same passes. Collective.

    Raises:
        ValueError: The layout that is wanted is not supported.
    """
    if wanted != "auto" and (why := unsupported.get(cast(LayoutName, wanted))):
        raise UserError(f"policy.layout is {wanted!r}, but {why}. Use policy.layout: padded or auto.")
    names = [n for n in COUNTS if n == "padded" or (n not in unsupported and wanted in ("auto", n))]
    tokens = {name: COUNTS[name](prompts, completions) for name in names}
    if wanted == "padded":
        return LayoutChoice(layout="padded", computed=tokens["padded"], padded=tokens["padded"], reason="as configured")
    linear = count_linear_parameters(model)
    costs = [estimate_cost(model, name, prompts, completions, tokens[name] * linear) for name in names]
    table = total(torch.tensor([[float(tokens[n]) for n in names], costs], dtype=torch.float64)).tolist()
    counts, cost = (dict(zip(names, row, strict=True)) for row in table)
    gains: dict[LayoutName, float] = {name: cost["padded"] / cost[name] for name in names if name != "padded"}
    best: LayoutName = max(gains, key=lambda name: gains[name], default="padded")  # the first of equals
    if best == "padded":
        reason = "; ".join(dict.fromkeys(unsupported.values()))
    else:
        saved = f"{counts[best]:,.0f} of {counts['padded']:,.0f} tokens"
        reason = f"{saved} computed, an estimated {gains[best]:.1f} times cheaper"
        if wanted == "auto" and gains[best] < GAIN:
            best, reason = "padded", f"sharing tokens would gain little ({reason})"
    return LayoutChoice(layout=best, computed=tokens[best], padded=tokens["padded"], reason=reason)


def estimate_cost(
    model: Any, layout: LayoutName, prompts: Sequence[Tokens], completions: Sequence[Tokens], linear: int
) -> float:
    """Multiply-adds of linear layers and attention in a forward pass.

    Args:
        linear: Those of the linear layers.
    """
    config = model.config.get_text_config()
    width = config.num_hidden_layers * config.hidden_size  # of scores and values together, per query and key
    rows = [(len(p), len(c)) for p, c in zip(prompts, completions, strict=True)]
    if layout == "padded":
        pairs = sum((p + c) ** 2 for p, c in rows)
    else:
        pairs = sum(len(p) ** 2 for p in {identify(p) for p in prompts}) + sum(c * (p + c) for p, c in rows)
    return float(linear + pairs * width)


def count_linear_parameters(model: Any) -> int:
    """Parameters of the linear layers, the head included."""
    weights = ((name, p) for name, p in model.named_parameters() if p.dim() > 1)
    total: int = sum(count_numbers(p) for name, p in weights if "embed" not in name)
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
