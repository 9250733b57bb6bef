"""Tiny models of families that are not a stack of attention layers alone, or that name their parts otherwise."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
import transformers
from transformers import AutoModelForCausalLM

from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.loading import attention_of
from lgrpo_lightning.policy.training_noise import set_training_noise
from lgrpo_lightning.samplers.decoding import Decoded, Decoding, Request
from lgrpo_lightning.types import Sampling
from tests.models import SMALL

COMMON = SMALL | {"vocab_size": 60}
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12]]
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1}
EXPERTS = {
    "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}  # fmt: skip

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_5": ("Qwen3_5TextConfig", LINEAR | {"head_dim": 16}),
    "qwen3_next": ("Qwen3NextConfig", LINEAR | EXPERTS),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"]}),
    "granite_hybrid": ("GraniteMoeHybridConfig", MAMBA | {
        "layer_types": ["mamba", "attention"], "num_local_experts": 4, "num_experts_per_tok": 2,
        "shared_intermediate_size": 32}),
    "nemotron_h": ("NemotronHConfig", {
        "num_hidden_layers": 3, "layers_block_type": ["mamba", "attention", "mlp"], "mamba_num_heads": 8,
        "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 1, "head_dim": 16}),
    "mamba": ("MambaConfig", {}),
    "mamba2": ("Mamba2Config", {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1}),
    "falcon_mamba": ("FalconMambaConfig", {}),
    "jamba": ("JambaConfig", {
        "use_mamba_kernels": False, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "num_experts": 2}),
    "bamba": ("BambaConfig", MAMBA | {"attn_layer_indices": [1]}),
    "falcon_h1": ("FalconH1Config", MAMBA | {"mamba_d_ssm": 128}),
    "olmo_hybrid": ("OlmoHybridConfig", LINEAR | {"linear_num_key_heads": 4}),
    "falcon": ("FalconConfig", {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "llama4": ("Llama4TextConfig", {"intermediate_size_mlp": 96, "num_local_experts": 4, "head_dim": 16}),
    "nemotron": ("NemotronConfig", {}),
    "gpt_oss": ("GptOssConfig", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}),
    "deepseek_v3": ("DeepseekV3Config", {
        "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
        "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}),
    "gemma4": ("Gemma4TextConfig", {
        "head_dim": 16, "global_head_dim": 16, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 60,
        "layer_types": ["sliding_attention", "full_attention"]}),
    "phimoe": ("PhimoeConfig", {"num_local_experts": 4}),
    "qwen3_moe": ("Qwen3MoeConfig", EXPERTS),
    "rwkv": ("RwkvConfig", {}),
    "recurrent_gemma": ("RecurrentGemmaConfig", {
        "lru_width": 64, "attention_window_size": 32, "block_types": ["recurrent", "attention"], "head_dim": 16}),
}  # fmt: skip
"""Family → its configuration class and what it needs beside ``COMMON``."""


def family_policy(family: str, **options: Any) -> Policy:
    """A policy with random weights, far from uniform."""
    name, extra = FAMILIES[family]
    config = getattr(transformers, name)(**(COMMON | extra))
    set_training_noise(config, 0.0)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(config, "sdpa")).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    with patch("lgrpo_lightning.policy.policy.load_model", lambda _: model.train()):
        return Policy(PolicyConfig(path=family, **options))


def drawn(policy: Policy) -> tuple[list[list[int]], list[Decoded]]:
    """Three completions of each prompt, some of which end early: the cache is repeated, padded and compacted."""
    requests = [Request(prompt=i // 3, key=i * 7919) for i in range(6)]
    with policy.generation_model() as model:
        found = Decoding(model, None, tuple(range(1, 6)), Sampling(max_new_tokens=12)).run(PROMPTS, requests)
    return [PROMPTS[r.prompt] for r in requests], found
