"""Engines that start and end within a test."""

from pathlib import Path

import pytest
import torch

from lgrpo_lightning.samplers.vllm import VLLMSampler
from lgrpo_lightning.samplers.vllm_options import EngineOptions
from lgrpo_lightning.samplers.vllm_transport import VLLMError
from tests.samplers.vllm.engines import SAMPLING, ChangingPolicy, needs_vllm, prompts, stale_heads, stream

pytestmark = needs_vllm
SMALL = EngineOptions(max_num_seqs=16)


@pytest.mark.parametrize("broken", ["head", "cache"])
def test_the_first_sync_of_a_run_catches_it_too(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine starts with weights of its own, so that nothing that is not taken over looks right."""
    from lgrpo_lightning.samplers.vllm_engine import InProcessEngine
    from lgrpo_lightning.samplers.vllm_worker import WeightReceiver

    if broken == "head":
        monkeypatch.setattr(WeightReceiver, "_lgrpo_refresh_heads", stale_heads)
    else:
        monkeypatch.setattr(InProcessEngine, "_reset_prefix_cache", lambda self: None)
    policy = ChangingPolicy("llama_tied", tmp_path)
    sampler = VLLMSampler(SMALL)
    sampler.setup(policy.source)
    with pytest.raises(VLLMError, match="prefix cache was not reset"):
        sampler.sample(prompts(), 1, sampling=SAMPLING, stream=stream())
    sampler.teardown()
    assert not torch.distributed.is_initialized()


def test_bf16_is_within_the_default_tolerance(tmp_path: Path) -> None:
    policy = ChangingPolicy("llama_tied", tmp_path)
    sampler = VLLMSampler(EngineOptions(dtype="bfloat16", max_num_seqs=16))
    sampler.setup(policy.source)
    drawn = sampler.sample(prompts(), 4, sampling=SAMPLING, stream=stream())
    assert 1e-4 < policy.logprob_error(drawn, SAMPLING.temperature) < 2
    sampler.teardown()


def test_an_engine_that_does_not_start(tmp_path: Path) -> None:
    policy = ChangingPolicy("llama_tied", tmp_path)
    sampler = VLLMSampler(EngineOptions(max_num_seqs=16, kv_cache_gb=1e6))
    sampler.setup(policy.source)
    with pytest.raises(VLLMError, match=r"(?s)did not start.*given dtype='float32'.*lower sampler.engine"):
        sampler.sync(0)
    sampler.teardown()


def test_an_adapter_is_added_on_the_fly(tmp_path: Path) -> None:
    """The engine samples from base + adapter; the policy's own weights stay apart."""
    pytest.importorskip("peft")
    from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource
    from lgrpo_lightning.policy.lora import Lora

    policy = ChangingPolicy("llama_tied", tmp_path)
    policy.policy = Policy(PolicyConfig(path=str(tmp_path), lora=Lora(rank=4)))
    policy.source = PolicySource(
        policy.policy, tokenizer=policy.source.tokenizer, eos_token_ids=(1,), version=lambda: policy.version
    )
    sampler = VLLMSampler(SMALL, check_every=1)
    sampler.setup(policy.source)
    for _ in range(2):
        with torch.no_grad():
            for parameter in policy.policy.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        policy.version += 1
        sampler.sync(policy.version)
        drawn = sampler.sample(prompts(), 2, sampling=SAMPLING, stream=stream())
        assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-3
    sampler.teardown()


def test_training_in_mixed_precision_does_not_reach_the_engine(tmp_path: Path) -> None:
    policy = ChangingPolicy("llama_tied", tmp_path)
    sampler = VLLMSampler(SMALL)
    sampler.setup(policy.source)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = sampler.sample(prompts(), 2, sampling=SAMPLING, stream=stream())  # and the check passes
    assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-3
    sampler.teardown()
