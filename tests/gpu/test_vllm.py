"""The vLLM engine on CUDA, in process and as a server, asleep between rollouts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lgrpo_lightning.samplers.vllm.options import EngineOptions, ServerOptions
from lgrpo_lightning.samplers.vllm.sampler import VLLMSampler
from lgrpo_lightning.samplers.vllm.transport import VLLMError
from tests.gpu.machine import DEVICE, needs_cuda, needs_gpus, needs_vllm, started
from tests.runs import train_metrics
from tests.samplers.vllm.engines import (
    KEY,
    SAMPLING,
    ChangingPolicy,
    RealServer,
    adapted,
    prompts,
    random_key,
    sequences,
)

pytestmark = [pytest.mark.gpu, needs_gpus(1), needs_vllm]
ENGINE = EngineOptions(max_num_seqs=16, gpu_memory_utilization=0.2, enforce_eager=True)


@pytest.fixture
def policy(tmp_path: Path) -> ChangingPolicy:
    made = ChangingPolicy("llama_tied", tmp_path / "model")
    made.policy.to(DEVICE)
    return made


def connected(policy: ChangingPolicy, **options: Any) -> Iterator[VLLMSampler]:
    sampler = VLLMSampler(ENGINE, check_every=1, **options)
    sampler.setup(policy.source)
    yield sampler
    sampler.teardown()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_three_updates_asleep_in_between(level: Any, policy: ChangingPolicy) -> None:
    """Greedy completions are the policy's, and so are log-probs; also of weights refreshed on wake-up."""
    for sampler in connected(policy, sleep_level=level):
        for _ in range(3):
            sampler.sync(policy.update())
            greedy = sampler.sample(prompts(), 1, sampling=SAMPLING.greedy, random_key=random_key())
            assert policy.greedy_gap(greedy) < 1e-2
            drawn = sampler.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key(policy.version))
            assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-2
            sampler.release()


def test_woken_without_an_update(policy: ChangingPolicy) -> None:
    for sampler in connected(policy, sleep_level=2):
        sampler.sync(policy.update())
        before = sampler.sample(prompts(), 2, sampling=SAMPLING, random_key=random_key())
        sampler.release()
        sampler.sync(policy.version)
        again = sampler.sample(prompts(), 2, sampling=SAMPLING, random_key=random_key())
        assert sequences(again) == sequences(before)


def test_an_adapter(tmp_path: Path) -> None:
    policy = adapted(tmp_path)
    policy.policy.to(DEVICE)
    for sampler in connected(policy, sleep_level=1):
        for _ in range(2):
            sampler.sync(policy.update(0.3))
            drawn = sampler.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key())
            assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-2
            sampler.release()


def synced_twice(policy: ChangingPolicy, server: RealServer, transfer: Any) -> None:
    for sampler in connected(policy, server=ServerOptions(urls=[server.url], transfer=transfer)):
        for _ in range(2):
            sampler.sync(policy.update())
            drawn = sampler.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key())
            assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-2
        transport: Any = sampler.transport
        assert (transport.feed.sender is None) == (transfer == "files")


@pytest.mark.parametrize("transfer", ["files", pytest.param("ipc", marks=needs_cuda)])
def test_a_server_on_the_same_gpu(
    transfer: str, policy: ChangingPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    server = RealServer(tmp_path / "model", tmp_path, transfer=transfer).start()
    try:
        synced_twice(policy, server, transfer)
    finally:
        server.kill()


@needs_cuda
@needs_gpus(2)
def test_servers_on_another_gpu(policy: ChangingPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By NCCL; started again between two updates, and killed at one."""
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # of the server; this process has its own already
    server = RealServer(tmp_path / "model", tmp_path).start()
    try:
        synced_twice(policy, server, "auto")  # and a second run with the same server
        synced_twice(policy, server, "nccl")
        options = ServerOptions(urls=[server.url], retry_seconds=5.0)
        for sampler in connected(policy, server=options):
            sampler.sync(policy.update())
            server.kill()
            server.start()
            sampler.sync(policy.update())
            drawn = sampler.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key())
            assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-2
            server.kill()
            with pytest.raises(VLLMError, match=r"did not answer for 5 seconds"):
                sampler.sync(policy.update())
    finally:
        server.kill()


def test_a_run_in_bf16(tmp_path: Path) -> None:
    sampler = {
        "class_path": "VLLMSampler",
        "init_args": {
            "engine": {"dtype": "bfloat16", "gpu_memory_utilization": 0.2},
            "check_every": 1,
            "sleep_level": 1,
        },
    }
    run = started(tmp_path, trainer__precision="bf16-mixed", model__sampler=sampler)
    assert len(train_metrics(run)) == 3
    assert (train_metrics(run)["sampling/weight_lag"] == 0).all()
