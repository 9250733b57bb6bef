"""Options of the engine and the servers."""

from typing import Any

import pytest
from transformers import GemmaConfig, LlamaConfig

from lgrpo_lightning.samplers.vllm.options import EngineOptions, ServerOptions, count_cache_bytes
from lgrpo_lightning.samplers.vllm.sampler import VLLMSampler

LLAMA = LlamaConfig(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=32, hidden_size=128)


def arguments(cpu: bool, **options: Any) -> dict[str, Any]:
    return EngineOptions(**options).make_arguments(LLAMA, dtype="float32", longest_sequence=100, cpu=cpu)


def test_bytes_of_the_cache_by_hand() -> None:
    assert count_cache_bytes(LLAMA, "float32") == 2 * 3 * 2 * 32 * 4
    assert count_cache_bytes(LLAMA, "bfloat16") == 2 * 3 * 2 * 32 * 2
    gemma = GemmaConfig(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=256)
    assert count_cache_bytes(gemma, "float16") == 2 * 256 * 2


def test_on_a_cpu() -> None:
    found = arguments(cpu=True, max_num_seqs=10)
    assert found["block_size"] == 32
    assert found["enforce_eager"] is True
    assert found["kv_cache_memory_bytes"] == 10 * (100 + 32) * count_cache_bytes(LLAMA, "float32")
    assert "gpu_memory_utilization" not in found
    assert found["logprobs_mode"] == "processed_logprobs"
    assert found["max_model_len"] == 100


def test_the_cache_on_a_cpu_is_bounded() -> None:
    found = EngineOptions().make_arguments(LLAMA, dtype="float32", longest_sequence=131072, cpu=True)
    assert found["kv_cache_memory_bytes"] == 4 * 2**30
    found = EngineOptions().make_arguments(LLAMA, dtype="float32", longest_sequence=10**7, cpu=True)
    assert found["kv_cache_memory_bytes"] > 4 * 2**30  # one completion has to fit


def test_on_cuda() -> None:
    found = arguments(cpu=False, gpu_memory_utilization=0.5, tensor_parallel_size=2)
    assert found["gpu_memory_utilization"] == 0.5
    assert found["enforce_eager"] is False
    assert not {"block_size", "kv_cache_memory_bytes"} & set(found)
    assert found["tensor_parallel_size"] == 2


def test_what_is_chosen_wins() -> None:
    found = arguments(
        cpu=True, dtype="bfloat16", max_model_len=64, kv_cache_gb=0.5, block_size=16, enforce_eager=False,
        extra={"quantization": "fp8"},
    )  # fmt: skip
    assert found["dtype"] == "bfloat16"
    assert found["max_model_len"] == 64
    assert found["kv_cache_memory_bytes"] == 2**29
    assert found["block_size"] == 16
    assert found["enforce_eager"] is False
    assert found["quantization"] == "fp8"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_num_seqs": 0}, r"sampler.engine.max_num_seqs is 0; it must be at least 1"),
        ({"gpu_memory_utilization": 1.5}, "above 0 and at most 1"),
        ({"kv_cache_gb": 0}, "above 0, or null"),
        ({"extra": {"seed": 3, "dtype": "half"}}, "extra sets dtype, seed, which this sampler sets itself"),
    ],
)
def test_bad_engine_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"urls": ["127.0.0.1:8000"]}, "an address looks like http://127.0.0.1:8000"),
        ({"urls": ["http://a:1/v1"]}, "without a path"),
        ({"urls": ["http://a:1", "http://a:1"]}, "names a server twice"),
        ({"urls": ["file:"]}, "or like file:PATH"),
        ({"urls": ["file:a", "file:a"]}, "names a server twice"),
        ({"urls": "http://a:1"}, r"write \['http://a:1'\]. If it is a string, it must be file:PATH"),
        ({"retry_seconds": 0}, "sampler.server.retry_seconds is 0"),
    ],
)
def test_bad_server_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"check_every": -1}, "0: never"),
        ({"check_tolerance": 0.0}, "above 0, or null"),
        ({"sleep_level": 3}, "0, 1 or 2"),
        ({"entropy_top": -2}, "or -1 for all tokens"),
    ],
)
def test_bad_sampler_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VLLMSampler(**options)
