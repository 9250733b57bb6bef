"""The HTTP side against a stand-in: what goes wrong with servers, without vLLM."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lgrpo_lightning.distributed.interruption import AbandonedError, begin, request_stop
from lgrpo_lightning.samplers.vllm.http import Server
from lgrpo_lightning.samplers.vllm.options import EngineOptions, ServerOptions
from lgrpo_lightning.samplers.vllm.sampler import VLLMSampler
from lgrpo_lightning.samplers.vllm.transport import VLLMError
from lgrpo_lightning.types import Group
from tests.samplers.vllm.engines import (
    SAMPLING,
    ChangingPolicy,
    StandIn,
    adapted,
    prompts,
    random_key,
    sequences,
)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> ChangingPolicy:
    return ChangingPolicy("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def stand_in(policy: ChangingPolicy) -> Iterator[StandIn]:
    server = StandIn(policy.policy.model.config)
    yield server
    server.stop()


Connected = Callable[..., VLLMSampler]


@pytest.fixture
def connected(policy: ChangingPolicy, tmp_path: Path) -> Iterator[Connected]:
    made: list[VLLMSampler] = []

    def connect(*servers: StandIn, **options: Any) -> VLLMSampler:
        options = {"retry_seconds": 5.0, "request_seconds": 5.0, "weights_dir": str(tmp_path), **options}
        sampler = VLLMSampler(server=ServerOptions(urls=[s.url for s in servers], **options), check_every=0)
        sampler.setup(policy.source)
        made.append(sampler)
        return sampler

    yield connect
    for sampler in made:
        sampler.teardown()


def sample(sampler: VLLMSampler, counter: int = 0) -> list[Group]:
    return sampler.sample(prompts(), 3, sampling=SAMPLING, random_key=random_key(counter))


def test_weights_then_completions(stand_in: StandIn, connected: Connected, tmp_path: Path) -> None:
    sampler = connected(stand_in)
    sampler.sync(7)
    assert stand_in.version == "7"
    assert stand_in.called("/reset_prefix_cache") == 1
    groups = sample(sampler)
    assert [len(g) for g in groups] == [3] * 4
    assert {r.weight_version for g in groups for r in g.completions} == {7}
    body = next(b for n, b in stand_in.calls if n == "/v1/completions" and b["n"] == 3)
    assert body["temperature"] == 0.7
    assert body["ignore_eos"] is True
    assert body["stop_token_ids"] == [1]
    assert isinstance(body["prompt"][0], int)
    sampler.sync(7)
    assert stand_in.called("/update_weights") == 1
    sampler.sync(8)
    assert stand_in.called("/update_weights") == 2
    assert len(list(tmp_path.iterdir())) == 1  # one set of weights at a time
    sampler.teardown()
    assert not list(tmp_path.iterdir())


def test_servers_share_the_prompts(policy: ChangingPolicy, stand_in: StandIn, connected: Connected) -> None:
    alone = sequences(sample(connected(stand_in)))
    second = StandIn(policy.policy.model.config)
    sampler = connected(stand_in, second)
    before = stand_in.called("/v1/completions")
    assert sequences(sample(sampler)) == alone
    assert second.called("/update_weights") == 1
    assert stand_in.called("/v1/completions") - before >= 2
    assert second.called("/v1/completions") >= 2
    second.stop()


def test_the_same_stream_gives_the_same_completions(stand_in: StandIn, connected: Connected) -> None:
    sampler = connected(stand_in)
    assert sequences(sample(sampler, 1)) == sequences(sample(sampler, 1)) != sequences(sample(sampler, 2))


def test_a_stop_gives_up_what_was_not_sent(stand_in: StandIn, connected: Connected) -> None:
    sampler = connected(stand_in)
    sampler.sync(0)
    before = stand_in.called("/v1/completions")
    request_stop(signal.SIGTERM)
    try:
        with pytest.raises(AbandonedError):
            sample(sampler)
    finally:
        begin()
    assert stand_in.called("/v1/completions") == before


def test_a_server_that_never_answers(connected: Connected) -> None:
    gone = StandIn(None)
    gone.stop()
    started = time.monotonic()
    with pytest.raises(VLLMError, match=rf"{gone.url} did not answer for 1 seconds .*retry_seconds.*lgrpo serve"):
        connected(gone, retry_seconds=1.0).sync(0)
    assert time.monotonic() - started < 10


def test_a_server_that_starts_late(policy: ChangingPolicy, connected: Connected) -> None:
    late = StandIn(policy.policy.model.config)
    late.stop()
    started: list[StandIn] = []
    threading.Timer(1.0, lambda: started.append(StandIn(policy.policy.model.config, port=late.port))).start()
    assert len(sample(connected(late))) == 4
    started[0].stop()


def test_another_model(policy: ChangingPolicy, connected: Connected) -> None:
    from transformers import LlamaConfig

    other = StandIn(LlamaConfig(hidden_size=512, num_hidden_layers=2, vocab_size=43))
    with pytest.raises(VLLMError, match=r"has another model than the policy: hidden_size 512 \(policy: 64\)"):
        connected(other).sync(0)
    other.stop()


def test_not_a_server_of_lgrpo_serve(stand_in: StandIn, connected: Connected) -> None:
    stand_in.on["lgrpo_describe"] = lambda _: (500, {"error": "no attribute lgrpo_describe"})
    with pytest.raises(VLLMError, match=r"does not know how to take over weights.*lgrpo serve"):
        connected(stand_in).sync(0)
    stand_in.on["lgrpo_describe"] = lambda _: (404, {"detail": "Not Found"})
    with pytest.raises(VLLMError, match=r"was not started for it.*VLLM_SERVER_DEV_MODE=1"):
        connected(stand_in).sync(0)


def test_other_log_probs(stand_in: StandIn, connected: Connected) -> None:
    described = stand_in.described() | {"logprobs_mode": "raw_logprobs"}
    stand_in.on["lgrpo_describe"] = lambda _: (200, {"results": [described]})
    with pytest.raises(VLLMError, match=r"gives raw_logprobs.*--logprobs-mode processed_logprobs"):
        connected(stand_in).sync(0)


def test_the_key(stand_in: StandIn, connected: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.key = "right"
    monkeypatch.setenv("LGRPO_TEST_KEY", "wrong")
    with pytest.raises(VLLMError, match=r"refused the API key.*LGRPO_TEST_KEY"):
        connected(stand_in, api_key_env="LGRPO_TEST_KEY", retry_seconds=1.0).sync(0)
    monkeypatch.setenv("LGRPO_TEST_KEY", "right")
    connected(stand_in, api_key_env="LGRPO_TEST_KEY").sync(0)


def test_the_folder_is_not_seen_by_the_server(stand_in: StandIn, connected: Connected) -> None:
    stand_in.on["/update_weights"] = lambda _: (500, {"error": "FileNotFoundError"})
    with pytest.raises(VLLMError, match=r"did not take over the weights.*sampler.server.weights_dir"):
        connected(stand_in).sync(0)


def test_the_cache_cannot_be_reset(stand_in: StandIn, connected: Connected) -> None:
    stand_in.on["/reset_prefix_cache"] = lambda _: (200, {"success": False})
    with pytest.raises(VLLMError, match=r"could not reset its prefix cache.*belongs to one run"):
        connected(stand_in).sync(0)


def test_a_server_that_hangs(stand_in: StandIn, connected: Connected) -> None:
    sampler = connected(stand_in, request_seconds=0.5)
    sampler.sync(0)

    def hang(_: Any) -> tuple[int, Any]:
        time.sleep(2)
        return 200, {}

    stand_in.on["/v1/completions"] = hang
    with pytest.raises(VLLMError, match=r"did not answer /v1/completions within 0.5 seconds.*start the server again"):
        sample(sampler)


def test_an_aborted_completion(stand_in: StandIn, connected: Connected) -> None:
    sampler = connected(stand_in)
    sampler.sync(0)
    aborted = {"index": 0, "token_ids": [5], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "abort"}
    stand_in.on["/v1/completions"] = lambda body: (200, {"choices": [aborted] * body["n"]})
    with pytest.raises(VLLMError, match="ended a completion after 1 tokens with 'abort'"):
        sample(sampler)


def test_somebody_else_feeds_the_server(stand_in: StandIn, connected: Connected) -> None:
    sampler = connected(stand_in)
    sampler.sync(3)
    stand_in.version = "9"
    with pytest.raises(VLLMError, match="has weights of version 9, not 3: another run feeds it too"):
        sample(sampler)


def test_a_server_that_restarts_in_the_middle_gets_the_weights_again(
    policy: ChangingPolicy, stand_in: StandIn, connected: Connected
) -> None:
    """Nothing that it sampled from the weights it started with is kept."""
    sampler = connected(stand_in)
    expected = sequences(sample(sampler, 1))
    stale: list[Any] = []

    def restarting(body: Any) -> tuple[int, Any]:
        if not stale:
            stale.append(body)
            stand_in.state["boot"], stand_in.version = "second", "default"
            return 0, None
        if stand_in.version == "default":
            stale.append(body)
            wrong = [{**StandIn.choice(body, i), "token_ids": [3, 1]} for i in range(body["n"])]
            return 200, {"choices": wrong}
        return 200, {"choices": [StandIn.choice(body, i) for i in range(body["n"])]}

    stand_in.on["/v1/completions"] = restarting
    loads = stand_in.called("/update_weights")
    assert sequences(sample(sampler, 1)) == expected
    assert stale
    assert stand_in.called("/update_weights") == loads + 1


def test_an_adapter_goes_again_to_a_server_that_restarts(tmp_path: Path) -> None:
    """The base once, then adapters; after a restart both."""
    policy = adapted(tmp_path / "model")
    server = StandIn(policy.policy.model.config)
    server.state["lora_rank"] = 8
    sampler = VLLMSampler(server=ServerOptions(urls=[server.url], weights_dir=str(tmp_path)), check_every=0)
    sampler.setup(policy.source)
    for _ in range(2):
        sampler.sync(policy.update())
        sample(sampler)
    assert server.adapters == ["lgrpo-2"]
    assert (server.called("/update_weights"), server.version) == (1, "-1+2")
    bodies = [b for n, b in server.calls if n == "/v1/completions"]
    assert bodies[-1]["model"] == "lgrpo-2"
    server.adapters.clear()
    server.state["boot"], server.version = "second", "default"
    assert len(sample(sampler)) == 4
    assert server.adapters == ["lgrpo-2"]
    assert server.called("/update_weights") == 2
    sampler.teardown()
    server.stop()


def test_a_base_that_was_lost_is_pushed_again(tmp_path: Path) -> None:
    """As with a server that was started again and had got the base without files."""
    pushed: list[int] = []
    transport: Any = SimpleNamespace(
        takes_adapter=True,
        push=lambda _, version: pushed.append(version),
        push_adapter=lambda _, version: pushed.append(version),
        has_lost_base=lambda: len(pushed) == 3,
    )
    sampler = VLLMSampler(check_every=0)
    sampler.setup(adapted(tmp_path / "model").source)
    sampler.transport = transport
    for version in (1, 2, 3):
        sampler.sync(version)
    assert pushed == [-1, 1, 2, -1, 3]


def test_a_server_that_takes_no_adapter(tmp_path: Path) -> None:
    policy = adapted(tmp_path / "model")
    server = StandIn(policy.policy.model.config)
    options = ServerOptions(urls=[server.url], weights_dir=str(tmp_path))
    merged = VLLMSampler(server=options, check_every=0)
    merged.setup(policy.source)
    merged.sync(policy.update())
    assert server.called("/v1/load_lora_adapter") == 0
    merged.teardown()
    strict = VLLMSampler(EngineOptions(lora="adapter"), options, check_every=0)
    strict.setup(policy.source)
    with pytest.raises(VLLMError, match=rf"{server.url} take adapters up to rank 0, and the policy's has 4"):
        strict.sync(0)
    server.stop()


def test_a_server_that_dies_in_the_middle(stand_in: StandIn, connected: Connected) -> None:
    sampler = connected(stand_in, retry_seconds=1.0)
    sampler.sync(0)

    def dying(_: Any) -> tuple[int, Any]:
        threading.Thread(target=stand_in.stop).start()
        return 0, None

    stand_in.on["/v1/completions"] = dying
    stand_in.on["/health"] = stand_in.on["lgrpo_describe"] = dying
    with pytest.raises(VLLMError, match=r"did not answer for 1 seconds.*--ckpt_path last"):
        sample(sampler)


def test_prompts_that_do_not_fit(stand_in: StandIn, connected: Connected) -> None:
    sampler = connected(stand_in)
    with pytest.raises(ValueError, match=r"A prompt of 300 tokens.*engine's 256 tokens.*max_model_len"):
        sampler.sample(prompts(["1" * 300]), 1, sampling=SAMPLING, random_key=random_key())


def test_a_run_that_was_killed_left_an_update_open(stand_in: StandIn, connected: Connected) -> None:
    stand_in.updating = True
    connected(stand_in).sync(3)
    assert (stand_in.version, stand_in.updating) == ("3", False)
    assert stand_in.called("/update_weights") == 1  # closed, not failed: that would leave layers loaded in part


def test_half_loaded_weights_have_no_version(stand_in: StandIn, connected: Connected) -> None:
    sampler = connected(stand_in)
    sampler.sync(3)
    stand_in.on["/update_weights"] = lambda _: (500, {"error": "disk"})
    with pytest.raises(VLLMError, match="did not take over the weights"):
        sampler.sync(4)
    assert stand_in.version == "none"


def test_an_address_in_a_file(policy: ChangingPolicy, connected: Connected, tmp_path: Path) -> None:
    """Waited for, and read again where the server was started again on another port."""
    path = tmp_path / "address"
    made: list[StandIn] = []

    def start() -> None:
        made.append(StandIn(policy.policy.model.config, boot=str(len(made))))
        path.write_text(made[-1].url + "\n")

    threading.Timer(1.0, start).start()
    sampler = VLLMSampler(server=ServerOptions(urls=f"file:{path}", retry_seconds=5.0), check_every=0)
    sampler.setup(policy.source)
    expected = sequences(sample(sampler))
    made[0].stop()
    threading.Timer(1.0, start).start()
    assert sequences(sample(sampler)) == expected
    assert made[0].url != made[1].url
    assert made[1].called("/update_weights") == 1
    made[1].stop()
    sampler.teardown()


def test_a_file_that_nobody_writes(connected: Connected, policy: ChangingPolicy, tmp_path: Path) -> None:
    options = ServerOptions(urls=[f"file:{tmp_path / 'none'}"], retry_seconds=0.5)
    sampler = VLLMSampler(server=options, check_every=0)
    sampler.setup(policy.source)
    with pytest.raises(VLLMError, match=r"file:.*/none \(there is no such file\) did not answer for 0.5 seconds"):
        sampler.sync(0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "the file cannot be read: Is a directory"),
        (b"", r"the file contains '', not an address"),
        (b"\xff\x00", "not an address"),
        (b"127.0.0.1:8000", "contains '127.0.0.1:8000', not an address like http://127.0.0.1:8000"),
        (b"http://a:99999999", "not an address"),
        (b"http://[", "not an address"),
        (b"http://127.0.0.1:9/", r"http://127.0.0.1:9/"),
    ],
)
def test_a_file_without_a_servers_address(content: bytes | None, said: str, tmp_path: Path) -> None:
    """Like a file that is not there: it may come. The message says what is there."""
    path = tmp_path / "address"
    path.mkdir() if content is None else path.write_bytes(content)
    server = Server(f"file:{path}", ServerOptions(retry_seconds=0.3))
    with pytest.raises(VLLMError, match=rf"file:{path} \(.*{said}.*\) did not answer for 0.3 seconds"):
        server.wait(time.monotonic())


@pytest.mark.parametrize(
    ("started", "wanted", "message"),
    [
        ("nccl", "auto", r"from GPU to GPU \(nccl\), and the policy is on the device cpu.*transfer: files"),
        ("files", "nccl", r"was started for sampler.server.transfer: files, but .* for nccl"),
        (None, "auto", r"started for sampler.server.transfer: None"),
    ],
)
def test_another_transfer(started: Any, wanted: Any, message: str, stand_in: StandIn, connected: Connected) -> None:
    stand_in.state["transfer"] = started
    with pytest.raises(VLLMError, match=message):
        connected(stand_in, transfer=wanted).sync(0)


def test_two_servers_with_two_transfers(policy: ChangingPolicy, stand_in: StandIn, connected: Connected) -> None:
    second = StandIn(policy.policy.model.config)
    second.state["transfer"] = "ipc"
    with pytest.raises(VLLMError, match=rf"{second.url} was started for sampler.server.transfer: ipc"):
        connected(stand_in, second).sync(0)
    second.stop()
