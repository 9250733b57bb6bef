"""A real server in another process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.samplers.vllm.http import Server
from lgrpo_lightning.samplers.vllm.options import EngineOptions, ServerOptions
from lgrpo_lightning.samplers.vllm.sampler import VLLMSampler
from lgrpo_lightning.samplers.vllm.transport import VLLMError
from lgrpo_lightning.samplers.vllm.weights import write_weights
from tests.samplers.vllm.engines import (
    KEY,
    SAMPLING,
    ChangingPolicy,
    RealServer,
    adapted,
    needs_vllm,
    prompts,
    random_key,
    sequences,
)

pytestmark = needs_vllm


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)


@pytest.fixture(scope="module", params=["llama_tied", pytest.param("qwen2_tied", marks=pytest.mark.slow)])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ChangingPolicy, RealServer]]:
    folder = tmp_path_factory.mktemp(request.param)
    policy = ChangingPolicy(request.param, folder / "model")
    server = RealServer(folder / "model", folder).start()
    yield policy, server
    server.kill()


@contextmanager
def sampler(policy: ChangingPolicy, server: RealServer, **options: Any) -> Iterator[VLLMSampler]:
    made = VLLMSampler(server=ServerOptions(urls=[server.url], **options), check_every=1, entropy_top=-1)
    made.setup(policy.source)
    yield made
    made.teardown()


def test_three_updates(pair: tuple[ChangingPolicy, RealServer]) -> None:
    policy, _ = pair
    stops = Sampling(max_new_tokens=30, temperature=2.0, stop=("a", "5"))
    with sampler(*pair) as sample:
        for _ in range(3):
            sample.sync(policy.update())
            greedy = sample.sample(prompts(), 1, sampling=SAMPLING.greedy, random_key=random_key())
            assert policy.greedy_gap(greedy) < 1e-3
            assert policy.logprob_error(greedy) < 1e-3
            drawn = sample.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key(policy.version))
            assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-3
            found = drawn[0].completions[0].entropies
            torch.testing.assert_close(found, policy.entropies(drawn[0], 0, SAMPLING), atol=2e-3, rtol=0)
        stopped = sample.sample(prompts(), 4, sampling=stops, random_key=random_key())
    in_process = VLLMSampler(EngineOptions(max_num_seqs=16))
    in_process.setup(policy.source)
    same = in_process.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key(policy.version))
    assert sequences(same) == sequences(drawn)
    same = in_process.sample(prompts(), 4, sampling=stops, random_key=random_key())
    assert sequences(same) == sequences(stopped)
    assert [r.text for g in same for r in g.completions] == [r.text for g in stopped for r in g.completions]
    in_process.teardown()


def test_updates_that_a_run_did_not_finish(pair: tuple[ChangingPolicy, RealServer], tmp_path: Path) -> None:
    """One was left open, and one failed after a part of the files; nothing of it gets into the next weights."""
    policy, real = pair
    server = Server(real.url, ServerOptions())
    wrong = ((name, torch.randn_like(tensor)) for name, tensor in policy.source.weights())
    folder = write_weights(wrong, tmp_path / "weights", shard_bytes=1)
    files = sorted(folder.iterdir())
    for file in files[len(files) // 2 :]:
        file.write_bytes(b"cut off")
    server.post("/start_weight_update")
    with pytest.raises(VLLMError, match="500"):
        server.post("/update_weights", {"update_info": {"folder": str(folder)}})
    server.post("/start_weight_update")
    with sampler(*pair) as sample:
        sample.sync(policy.update())
        drawn = sample.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key(policy.version))
        assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-3


def test_killed_in_the_middle_of_a_rollout_and_started_again(pair: tuple[ChangingPolicy, RealServer]) -> None:
    policy, server = pair
    long = Sampling(max_new_tokens=150, temperature=2.0)

    def restart() -> None:
        server.kill()
        server.start(wait=False)

    with sampler(policy, server, retry_seconds=240.0) as sample:
        expected = sequences(sample.sample(prompts(), 16, sampling=long, random_key=random_key()))
        transport: Any = sample.transport
        boots = dict(transport.feed.boots)
        threading.Timer(0.3, restart).start()
        assert sequences(sample.sample(prompts(), 16, sampling=long, random_key=random_key())) == expected
        assert transport.feed.boots != boots
        sample.sync(policy.update())
        sample.sample(prompts(), 1, sampling=SAMPLING, random_key=random_key())  # checked


def test_killed_and_not_started_again(pair: tuple[ChangingPolicy, RealServer]) -> None:
    with sampler(*pair, retry_seconds=2.0) as sample:
        sample.sync(0)
        pair[1].kill()
        with pytest.raises(VLLMError, match=rf"{pair[1].url} did not answer for 2 seconds"):
            sample.sample(prompts(), 2, sampling=SAMPLING, random_key=random_key())
    assert not list(Path("/dev/shm").glob("lgrpo-weights-*"))  # nothing is left in memory


def test_an_adapter_also_after_a_restart(tmp_path: Path) -> None:
    """The server gets the base once and then adapters; started again it gets both."""
    policy = adapted(tmp_path / "model")
    server = RealServer(tmp_path / "model", tmp_path, lora_rank=4).start()
    try:
        with sampler(policy, server, retry_seconds=240.0) as sample:
            for _ in range(2):
                sample.sync(policy.update(0.3))
                drawn = sample.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key())
                assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-3
            transport: Any = sample.transport
            assert transport.takes_adapter
            server.kill()
            server.start()
            again = sample.sample(prompts(), 4, sampling=SAMPLING, random_key=random_key())
            assert sequences(again) == sequences(drawn)
    finally:
        server.kill()


def test_an_address_in_a_file(tmp_path: Path) -> None:
    """The run starts before the server; the server, killed and started again, has another port."""
    policy = ChangingPolicy("llama_tied", tmp_path / "model")
    server = RealServer(tmp_path / "model", tmp_path, address=tmp_path / "servers" / "first")
    made = VLLMSampler(server=ServerOptions(urls=f"file:{server.address}", retry_seconds=600.0), check_every=1)
    made.setup(policy.source)
    threading.Timer(1.0, lambda: server.start(wait=False)).start()
    try:
        drawn = made.sample(prompts(), 2, sampling=SAMPLING, random_key=random_key())
        assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-3
        before = server.url
        server.kill()
        server.start(wait=False)
        assert sequences(made.sample(prompts(), 2, sampling=SAMPLING, random_key=random_key())) == sequences(drawn)
        assert server.url != before
        assert [p.name for p in (tmp_path / "servers").iterdir()] == ["first"]
    finally:
        made.teardown()
        server.kill()
