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
