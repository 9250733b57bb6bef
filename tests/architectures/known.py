"""What tiny configurations of some architectures need beside the rules."""

from __future__ import annotations

from typing import Any

MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1}
ZAMBA = {"use_mamba_kernels": False, "num_hidden_layers": 5, "layers_block_type": [
    "linear_attention", "hybrid", "linear_attention", "hybrid", "linear_attention"]}  # fmt: skip


def multimodal_rope(*sections: int, **rope: Any) -> dict[str, Any]:
    """Rotary positions of three kinds, each with its share of the rotated half of a head."""
    return {"rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections), **rope}}  # fmt: skip


KNOWN: dict[str, dict[str, Any]] = {
    "bamba": MAMBA | {"attn_layer_indices": [1, 3]},
    "big_bird": {"attention_type": "original_full"},
    "blenderbot": {"encoder_layers": 4},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
             "ffn_config": {"ffn_hidden_size": 96, "hidden_size": 64}},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
              "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 128},
    "gemma3n_text": {
        "num_kv_shared_layers": 0, "activation_sparsity_pattern": None, "intermediate_size": [96] * 4,
        "hidden_size_per_layer_input": 8, "laurel_rank": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "cohere_compass_text": {"layer_types": None},
    "deepseek_v2": {"topk_group": 1, "n_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "glm4v_text": multimodal_rope(2, 1, 1, partial_rotary_factor=0.5),
    "glm4v_moe_text": multimodal_rope(2, 1, 1, partial_rotary_factor=0.5),
    "glm_ocr_text": multimodal_rope(2, 1, 1, partial_rotary_factor=0.5),
    "qwen2_vl_text": multimodal_rope(4, 2, 2),
    "qwen2_5_vl_text": multimodal_rope(4, 2, 2),
    "qwen2_5_omni_text": multimodal_rope(4, 2, 2),
    "paddleocr_vl_text": multimodal_rope(4, 2, 2),
    "granitemoehybrid": MAMBA | {"layer_types": ["mamba", "attention"] * 2},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "hunyuan_vl_text": {"head_dim": 16},
    "jamba": {"use_mamba_kernels": False},
    "kimi_linear": {"linear_num_heads": 4, "linear_head_dim": 16},
    "inkling_text": {"unpadded_vocab_size": 60},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"num_layers": 2, "head_dim": 16, "qk_head_dim": 32},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {
        "is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "lsh"] * 2, "feed_forward_size": 96},
    "qwen4_exp_text": {
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8,
        "indexer_compress_ratio": 4, "num_experts_per_tok": 2},
    "xlstm": {"num_blocks": 4, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": ZAMBA | {"attention_head_dim": 32, "attention_hidden_size": 128},
    "zamba2": ZAMBA | {"n_mamba_heads": 8},
}  # fmt: skip
"""Model type → entries of its configuration."""
