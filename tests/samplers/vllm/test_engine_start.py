"""Engines that start and end within a test."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lgrpo_lightning.samplers.vllm.options import EngineOptions
from lgrpo_lightning.samplers.vllm.sampler import VLLMSampler
from lgrpo_lightning.samplers.vllm.transport import VLLMError
from tests.samplers.vllm.engines import (
    SAMPLING,
    ChangingPolicy,
    adapted,
    needs_vllm,
    prompts,
    random_key,
    stale_heads,
)

pytestmark = needs_vllm
SMALL = EngineOptions(max_num_seqs=16)


@pytest.mark.parametrize("broken", ["head", "cache"])
def test_the_first_sync_of_a_run_catches_it_too(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine starts with weights of its own, so that nothing that is not taken over looks right."""
    from lgrpo_lightning.samplers.vllm.engine import InProcessEngine

    if broken == "head":
        monkeypatch.setattr("lgrpo_lightning.samplers.vllm.worker.refresh_heads", stale_heads)
    else:
        monkeypatch.setattr(InProcessEngine, "_reset_prefix_cache", lambda self: None)
    policy = ChangingPolicy("llama_tied", tmp_path)
    sampler = VLLMSampler(SMALL)
    sampler.setup(policy.source)
    with pytest.raises(VLLMError, match="prefix cache was not reset"):
        sampler.sample(prompts(), 1, sampling=SAMPLING, random_key=random_key())
    sampler.teardown()
    assert not torch.distributed.is_initialized()


def test_bf16_is_within_the_default_tolerance(tmp_path: Path) -> None:
    policy = ChangingPolicy("llama_tied", tmp_path)
    sampler = VLLMSampler(EngineOptions(dtype="bfloat16", max_num_seqs=16))
    sampler.setup(policy.source)
    drawn = sampler.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key())
    assert 1e-4 < policy.logprob_error(drawn, SAMPLING.temperature) < 2
    sampler.teardown()


def test_an_engine_that_does_not_start(tmp_path: Path) -> None:
    policy = ChangingPolicy("llama_tied", tmp_path)
    sampler = VLLMSampler(EngineOptions(max_num_seqs=16, kv_cache_gb=1e6))
    sampler.setup(policy.source)
    with pytest.raises(VLLMError, match=r"(?s)did not start.*given dtype='float32'.*lower sampler.engine"):
        sampler.sync(0)
    sampler.teardown()


@pytest.mark.parametrize("lora", ["adapter", "merge"])
def test_an_adapter(lora: Any, tmp_path: Path) -> None:
    """The engine samples from base + adapter, given one by one or added up; the policy's weights stay apart."""
    policy = adapted(tmp_path)
    sampler = VLLMSampler(EngineOptions(max_num_seqs=16, lora=lora), check_every=1, sleep_level=2)
    sampler.setup(policy.source)
    for _ in range(3):
        sampler.sync(policy.update(0.3))
        drawn = sampler.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key())
        assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-3
        sampler.release()
    transport: Any = sampler.transport
    assert transport.takes_adapter == (lora == "adapter")
    assert len(list(Path("/dev/shm").glob("lgrpo-weights-*"))) == (lora == "adapter")
    sampler.teardown()
    assert not list(Path("/dev/shm").glob("lgrpo-weights-*"))


def test_an_adapter_of_an_old_version_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = adapted(tmp_path)
    sampler = VLLMSampler(SMALL, check_every=1)
    sampler.setup(policy.source)
    sampler.sync(policy.update(0.3))
    sampler.sample(prompts(), 1, sampling=SAMPLING, random_key=random_key())
    transport: Any = sampler.transport
    monkeypatch.setattr(transport.llm.llm_engine, "add_lora", lambda request: None)
    sampler.sync(policy.update(0.3))
    with pytest.raises(VLLMError, match="does not sample from the policy's weights"):
        sampler.sample(prompts(), 1, sampling=SAMPLING, random_key=random_key())
    sampler.teardown()


def test_an_adapter_that_the_engine_does_not_take(tmp_path: Path) -> None:
    policy = adapted(tmp_path, rank=600, targets=["q_proj"])
    sampler = VLLMSampler(EngineOptions(max_num_seqs=16, lora="adapter"))
    sampler.setup(policy.source)
    with pytest.raises(ValueError, match=r"lora is 'adapter', but its rank is 600.*Use merge, or auto"):
        sampler.sync(0)
    sampler = VLLMSampler(SMALL)
    sampler.setup(policy.source)
    sampler.sync(policy.update(0.01))
    assert policy.logprob_error(sampler.sample(prompts(), 1, sampling=SAMPLING, random_key=random_key()), 0.7) < 1e-3
    assert not sampler.transport.takes_adapter
    sampler.teardown()


def test_training_in_mixed_precision_does_not_reach_the_engine(tmp_path: Path) -> None:
    policy = ChangingPolicy("llama_tied", tmp_path)
    sampler = VLLMSampler(SMALL)
    sampler.setup(policy.source)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = sampler.sample(prompts(), 2, sampling=SAMPLING, random_key=random_key())  # and the check passes
    assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-3
    sampler.teardown()
