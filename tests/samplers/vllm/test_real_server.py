"""A real server in another process."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lgrpo_lightning.samplers.vllm import VLLMSampler
from lgrpo_lightning.samplers.vllm_options import EngineOptions, ServerOptions
from lgrpo_lightning.samplers.vllm_transport import VLLMError
from lgrpo_lightning.types import Sampling
from tests.samplers.vllm.engines import (
    KEY,
    SAMPLING,
    ChangingPolicy,
    RealServer,
    needs_vllm,
    prompts,
    sequences,
    stream,
)

pytestmark = needs_vllm


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)


@pytest.fixture(scope="module", params=["llama_tied", "qwen2_tied"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ChangingPolicy, RealServer]]:
    folder = tmp_path_factory.mktemp(request.param)
    policy = ChangingPolicy(request.param, folder / "model")
    server = RealServer(folder / "model", folder).start()
    yield policy, server
    server.kill()


def sampler(policy: ChangingPolicy, server: RealServer, **options: Any) -> VLLMSampler:
    made = VLLMSampler(server=ServerOptions(urls=[server.url], **options), check_every=1)
    made.setup(policy.source)
    return made


def test_three_updates(pair: tuple[ChangingPolicy, RealServer]) -> None:
    policy, _ = pair
    sample = sampler(*pair)
    for _ in range(3):
        sample.sync(policy.update())
        greedy = sample.sample(prompts(), 1, sampling=SAMPLING.greedy, stream=stream())
        assert policy.greedy_gap(greedy) < 1e-3
        assert policy.logprob_error(greedy) < 1e-3
        drawn = sample.sample(prompts(), 4, sampling=SAMPLING, stream=stream(policy.version))
        assert policy.logprob_error(drawn, SAMPLING.temperature) < 1e-3
    stops = Sampling(max_new_tokens=30, temperature=2.0, stop=("a", "5"))
    through_server = sample.sample(prompts(), 4, sampling=stops, stream=stream())
    sample.rest()
    sample.teardown()
    in_process = VLLMSampler(EngineOptions(max_num_seqs=16))
    in_process.setup(policy.source)
    found = in_process.sample(prompts(), 4, sampling=SAMPLING, stream=stream(policy.version))
    assert sequences(found) == sequences(drawn)
    found = in_process.sample(prompts(), 4, sampling=stops, stream=stream())
    assert sequences(found) == sequences(through_server)
    assert [r.text for g in found for r in g.rollouts] == [r.text for g in through_server for r in g.rollouts]
    in_process.teardown()


def test_killed_in_the_middle_of_a_rollout_and_started_again(pair: tuple[ChangingPolicy, RealServer]) -> None:
    policy, server = pair
    sample = sampler(policy, server, retry_seconds=240.0)
    long = Sampling(max_new_tokens=150, temperature=3.0)
    expected = sequences(sample.sample(prompts(), 16, sampling=long, stream=stream()))

    def restart() -> None:
        server.kill()
        server.start(wait=False)

    threading.Timer(0.3, restart).start()
    assert sequences(sample.sample(prompts(), 16, sampling=long, stream=stream())) == expected
    sample.sync(policy.update())
    sample.sample(prompts(), 1, sampling=SAMPLING, stream=stream())  # checked
    sample.teardown()


def test_killed_and_not_started_again(pair: tuple[ChangingPolicy, RealServer]) -> None:
    sample = sampler(*pair, retry_seconds=2.0)
    sample.sync(0)
    pair[1].kill()
    with pytest.raises(VLLMError, match=rf"{pair[1].url} did not answer for 2 seconds"):
        sample.sample(prompts(), 2, sampling=SAMPLING, stream=stream())
    sample.teardown()


def test_nothing_is_left_in_memory(tmp_path: Path) -> None:
    assert not list(Path("/dev/shm").glob("lgrpo-weights-*"))
