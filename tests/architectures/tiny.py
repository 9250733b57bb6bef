"""A tiny valid configuration of any architecture, made from the names of its entries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.architectures.known import KNOWN

LAYERS = 4

RULES: list[tuple[str, int]] = [
    (r"vocab_size(_per_layer_input)?|.*_vocab_size|n_vocab", 60),
    (
        r"(num_)?(num_hidden_|decoder_|encoder_|n_|text_)?(num_)?layers?|n_layer|depth|num_decoder_layers",
        LAYERS,
    ),
    (r"num_hidden_layers|num_encoder_layers|decoder_layers|encoder_layers", LAYERS),
    (
        r"(num_)?(key_value|kv)_heads|n_kv_heads|num_kv_heads|multi_query_group_num|num_global_key_value_heads",
        2,
    ),
    (
        r"(num_|n_|decoder_|encoder_|num_decoder_|num_encoder_)?(attention_)?heads?|n_head|num_attention_heads",
        4,
    ),
    (r"mamba_n(um)?_heads|n_mamba_heads|mamba_num_heads", 8),
    (r"linear_num_key_heads", 2),
    (r"linear_num_value_heads", 4),
    (r"head_dim|.*_head_dim|mamba_d_head|mamba_d_state|ssm_state_size|d_kv|head_size|.*state_size", 16),
    (r"rotary_dim", 8),
    (r"moe_.*intermediate_size|shared_.*intermediate_size|expert_ffn_hidden_size|.*expert.*_size", 32),
    (
        r".*intermediate_size(_mlp)?|.*ffn_dim|d_ff|d_inner|n_inner|ffn_hidden_size|ffn_dim|.*intermediate_dim",
        96,
    ),
    (
        r"hidden_size|d_model|n_embd|dim|n_embed|model_dim|lru_width|embed_dim|decoder_hidden_size|embedding_size",
        64,
    ),
    (r".*hidden_size|.*_embed_dim|.*_dim_model", 64),
    (r"(num_|n_|num_local_|moe_num_)(routed_|local_)?experts|zero_expert_num|n_routed_experts", 4),
    (r".*experts_per_tok|.*top_?k|moe_k|.*experts_per_token|topk_group|n_group|num_expert_group", 2),
    (r"n_shared_experts|num_shared_experts|mamba_n_?groups|n_groups|mamba_ngroups", 1),
    (r"q_lora_rank|kv_lora_rank|.*_rank", 16),
    (r"hidden_size_per_layer_input", 8),
    (r"max_position_embeddings|n_positions|max_seq_len|n_ctx|max_sequence_length|seq_length", 256),
    (r"sliding_window|attention_window_size|.*chunk_size", 8),
    (r"sliding_window_pattern|full_attention_interval|.*layer_period", 2),
    (r".*layer_offset|first_k_dense_replace", 1),
    (r"image_size", 28),
    (r"patch_size", 14),
]
"""(pattern of the whole name, value): the first that matches decides."""


KINDS = ("layer_types", "layers_block_type", "mlp_layer_types", "block_types")
"""Entries that list a kind for every layer."""


def tiny(config_class: Any) -> Any:
    """A configuration of ``config_class`` with four layers of width 64, 60 tokens, and every part that it may have."""
    return config_class(**arguments(config_class, KNOWN.get(config_class.model_type, {})))


def arguments(config_class: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """What to construct it with.

    Args:
        known: Entries that no rule gives; those of a part under the part's name.
    """
    default = config_class()
    known = dict(known)
    made: dict[str, Any] = {}
    for name, value in vars(default).items():
        if name in config_class.sub_configs:
            if value is not None:
                of_part = KNOWN.get(value.model_type, {})
                made[name] = arguments(type(value), {**of_part, **known.pop(name, {})})
        elif isinstance(value, int) and not isinstance(value, bool):
            made |= _small(name, value)
        elif name in KINDS and isinstance(value, list | tuple) and value:
            made[name] = _every_kind(value)
    heads, shared = getattr(default, "num_attention_heads", 0), getattr(default, "num_key_value_heads", 0)
    if "num_key_value_heads" in made and (heads == shared or getattr(default, "kv_lora_rank", None)):
        made["num_key_value_heads"] = made.get("num_attention_heads", 4)
    rope = getattr(default, "rope_parameters", None)
    if isinstance(rope, dict) and "mrope_section" in rope:
        made["rope_parameters"] = rope | {"mrope_section": _sections(default, made, rope)}
    return _real(config_class, made) | known


def _every_kind(kinds: Sequence[str]) -> list[str]:
    """The kinds of a stack of layers in turn."""
    distinct = list(dict.fromkeys(kinds))
    return [distinct[i % len(distinct)] for i in range(LAYERS)]


def _sections(default: Any, made: Mapping[str, Any], rope: Mapping[str, Any]) -> list[int]:
    """Thirds of the rotated half of a head, for rotary positions of three kinds."""
    width = made.get("head_dim") or made.get("hidden_size", 64) // made.get("num_attention_heads", 4)
    rotated = int(width * rope.get("partial_rotary_factor", getattr(default, "partial_rotary_factor", 1.0))) // 2
    return [rotated - 2 * (rotated // 3), rotated // 3, rotated // 3]


def _small(name: str, value: int) -> dict[str, int]:
    if re.search(r"(token|eos|bos|pad|image|video|audio|boi|eoi|boa|eoa).*(_id|_index|_ids)$", name):
        return {name: {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}.get(name, 3)}
    for pattern, small in RULES:
        if re.fullmatch(pattern, name):
            return {name: min(value, small) if value > 0 else value}
    return {}


def _real(config_class: Any, made: dict[str, Any]) -> dict[str, Any]:
    """Without what the class computes for itself."""
    from dataclasses import fields

    taken = {f.name for f in fields(config_class)} | set(config_class.attribute_map)
    return {name: value for name, value in made.items() if name in taken}
