"""Rotary frequencies that transformers takes from the longest row of a pass: one set for all passes of a run."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]

from lgrpo_lightning.errors import UserError

SWITCHED = (("short_factor", "long_factor"), ("short_mscale", "long_mscale"))
"""What longrope (Phi-3, Phi-4, Phi-MoE) has for short and for long sequences."""


def settle_frequencies(hf_config: Any, longest: int | None) -> Any:
    """Let ``longrope`` rotate every row of a run alike, whatever shares its pass and however far it has come.

    Where a row may be longer than the sequences of the first pretraining, all rows get the long factors, as in vLLM;
    else all have the short ones.

    Args:
        longest: Most tokens of a prompt and its completion; None where that is not known: any number.

    Returns:
        The rotary parameters as they were.
    """
    before = deepcopy(getattr(hf_config.get_text_config(), "rope_parameters", None))
    for rope in _list_ropes(hf_config):
        short = rope.get("original_max_position_embeddings") or 0
        if rope.get("rope_type") != "longrope" or (longest is not None and longest <= short):
            continue
        rope |= {key: rope[other] for key, other in SWITCHED if key in rope and other in rope}
        rank_zero_info(
            f"{hf_config.model_type} rotates positions otherwise in passes with more than {short:,} tokens, and a "
            f"prompt with its completion may have {'any number' if longest is None else f'{longest:,}'}: all rows "
            "get the factors of long sequences, as in vLLM."
        )
    return before


def find_longest_alike(hf_config: Any) -> int | None:
    """Most tokens of a row beyond which its frequencies would be those of the longest one in its pass; None: any."""
    text, bounds = hf_config.get_text_config(), list[int]()
    for rope in _list_ropes(hf_config):
        kind = rope.get("rope_type") or ""
        if kind == "longrope" and any(rope.get(key) != rope.get(other) for key, other in SWITCHED):
            bounds.append(int(rope["original_max_position_embeddings"]))
        if "dynamic" in kind:
            bounds.append(int(text.max_position_embeddings))
    return min(bounds, default=None)


def check_length(hf_config: Any, tokens: int) -> None:
    """Refuse a row whose frequencies would depend on the others in its pass."""
    bound = find_longest_alike(hf_config)
    if bound is not None and tokens > bound:
        raise UserError(
            f"{hf_config.model_type}: a prompt and its completion have up to {tokens} tokens, and beyond {bound} this "
            "model rotates positions as the longest row of a pass asks, so that log-probs would depend on the others "
            "in it. Lower sampling.max_new_tokens or data.max_prompt_length."
        )


def _list_ropes(hf_config: Any) -> Iterator[dict[str, Any]]:
    """The rotary parameters, each kind of layer its own where they differ."""
    parameters = getattr(hf_config.get_text_config(), "rope_parameters", None) or {}
    for rope in [parameters] if "rope_type" in parameters else parameters.values():
        if isinstance(rope, dict):
            yield rope
