"""Mixture-of-experts models: vLLM is fed under the names of their checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lgrpo_lightning.policy import Lora
from tests.models import EXTRA
from tests.samplers.vllm.engines import SAMPLING, ChangingPolicy, needs_vllm, prompts, random_key

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}
EXTRA |= {
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32}),
    "qwen2_moe": ("Qwen2MoeConfig", EXPERTS | HEADS | {"shared_expert_intermediate_size": 32}),
    "qwen3_moe": ("Qwen3MoeConfig", EXPERTS | HEADS | {"head_dim": 32}),
    "olmoe": ("OlmoeConfig", EXPERTS | HEADS | {"intermediate_size": 32}),
}
MODELS = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"]


@pytest.mark.parametrize("architecture", [*MODELS, "llama", "gpt2"])
def test_the_names_are_those_of_the_checkpoint(architecture: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    policy = ChangingPolicy(architecture, tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    fed = dict(policy.source.stored(policy.source.weights()))
    tied = set(policy.policy.model.all_tied_weights_keys)
    assert fed.keys() - tied == written.keys() - tied
    assert all(torch.equal(fed[name], written[name]) for name in written)


@needs_vllm
@pytest.mark.parametrize(("architecture", "adapted"), [*((name, False) for name in MODELS), ("mixtral", True)])
def test_the_engine_has_the_policys_weights(architecture: str, adapted: bool, tmp_path: Path) -> None:
    from lgrpo_lightning.samplers import VLLMSampler
    from lgrpo_lightning.samplers.vllm.options import EngineOptions

    policy = ChangingPolicy(architecture, tmp_path)
    if adapted:
        policy.adapt(Lora(rank=4, targets=["q_proj", "v_proj"]))
    sampler = VLLMSampler(EngineOptions(max_num_seqs=16), check_every=1)
    sampler.setup(policy.source)
    try:
        for _ in range(2):
            sampler.sync(policy.update())
            groups = sampler.sample(prompts(), 2, sampling=SAMPLING, random_key=random_key())
            assert policy.logprob_error(groups, SAMPLING.temperature) < 1e-3
    finally:
        sampler.teardown()
