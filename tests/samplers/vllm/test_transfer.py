"""Weights from GPU to GPU: vLLM's engines on both sides and their rendezvous, with a store in place of NCCL."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lgrpo_lightning.errors import MissingPackageError
from lgrpo_lightning.samplers.vllm.feed import Feed
from lgrpo_lightning.samplers.vllm.http import Server
from lgrpo_lightning.samplers.vllm.options import ServerOptions
from lgrpo_lightning.samplers.vllm.transfer import Sender, ServersClient, cut_chunks, find_address
from lgrpo_lightning.samplers.vllm.transport import VLLMError
from tests.samplers.vllm.engines import StandIn, needs_vllm

WEIGHTS = {
    "embed": torch.arange(12.0).reshape(3, 4),
    "norm": torch.tensor(2.0),
    "half": torch.rand(7, 2).bfloat16(),
    "ids": torch.arange(5),
}
OPTIONS = ServerOptions(retry_seconds=5.0, request_seconds=20.0)


class OverStore:
    """A communicator that sends tensors through the store of vLLM's group."""

    hangs = False

    def __init__(self, group: Any, device: Any) -> None:
        self.group, self.rank = group, group.rank

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        if OverStore.hangs:
            threading.Event().wait(60)
        got = self.group.broadcast_obj(tensor, src)
        if self.rank != src:
            tensor.copy_(got)

    def destroy(self) -> None:
        self.group = None


class Workers:
    """Two workers of a server: vLLM's receiving engines."""

    def __init__(self, server: StandIn) -> None:
        self.server = server
        self.received: list[dict[str, torch.Tensor]] = [{}, {}]
        self.ranks: list[int] = []
        server.state["transfer"] = "nccl"
        server.on |= {"/init_weight_transfer_engine": self.init, "/update_weights": self.update}

    def init(self, body: Any) -> tuple[int, Any]:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

        self.engines = [self.make(NCCLWeightTransferEngine, rank) for rank in range(2)]
        return self.both(lambda e: e.init_transfer_engine(e.parse_init_info(dict(body["init_info"]))))

    def make(self, engine: Any, rank: int) -> Any:
        parallel = SimpleNamespace(data_parallel_index=0, world_size=2, rank=rank)
        config = SimpleNamespace(parallel_config=parallel, model_config=None)
        model = SimpleNamespace(load_weights=lambda pairs: self.received[rank].update({n: t.clone() for n, t in pairs}))
        return engine(None, config, "cpu", model)

    def update(self, body: Any) -> tuple[int, Any]:
        if not self.server.updating or not body["update_info"]:
            return 500, {"error": "no update"}
        return self.both(lambda e: e.receive_weights(e.parse_update_info(body["update_info"])))

    def both(self, call: Callable[[Any], Any]) -> tuple[int, Any]:
        errors: list[Exception] = []

        def run(engine: Any) -> None:
            try:
                call(engine)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(e,), daemon=True) for e in self.engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.ranks = [e.model_update_group.rank for e in self.engines if e.model_update_group]
        return (500, {"error": repr(errors)}) if errors else (200, {})


@pytest.fixture
def over_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither NCCL nor CUDA's streams; everything else of vLLM's engines is as it is."""
    pytest.importorskip("vllm")
    from vllm.distributed.device_communicators import pynccl
    from vllm.distributed.weight_transfer import packed_tensor

    def make_streams(_: int, count: int) -> list[Any]:
        return [SimpleNamespace(synchronize=lambda: None)] * count

    monkeypatch.setattr(pynccl, "PyNcclCommunicator", OverStore)
    monkeypatch.setattr(packed_tensor, "_get_streams", make_streams)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(OverStore, "hangs", False)


@pytest.fixture
def pair() -> Iterator[list[StandIn]]:
    from transformers import LlamaConfig

    servers = [StandIn(LlamaConfig()) for _ in range(2)]
    yield servers
    for server in servers:
        server.stop()


def feed_of(servers: list[StandIn], transfer: Any = "nccl") -> Feed:
    feed = Feed([Server(s.url, OPTIONS) for s in servers], rank=0, world_size=1, weights_dir=None)
    feed.sender = Sender(transfer, feed.servers, rank=0, world_size=1)
    return feed


@needs_vllm
def test_all_workers_of_all_servers_get_the_weights(
    over_store: None, pair: list[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks, after one rendezvous; again after a server was started anew."""
    monkeypatch.setattr(
        "lgrpo_lightning.samplers.vllm.transfer.cut_chunks", lambda weights: cut_chunks(weights, chunk_bytes=50)
    )
    workers = [Workers(s) for s in pair]
    feed = feed_of(pair)
    for version in (0, 1, 2):
        sent = {name: tensor + version for name, tensor in WEIGHTS.items()}
        if version == 2:
            pair[1].state["boot"], pair[1].version, pair[1].updating = "second", "default", False
        feed.send(version, iter(sent.items()))
        for received in (r for w in workers for r in w.received):
            assert received.keys() == sent.keys()
            assert all(torch.equal(received[n], sent[n]) and received[n].dtype == sent[n].dtype for n in sent)
            received.clear()
        assert [s.version for s in pair] == [str(version)] * 2
        assert not any(s.updating for s in pair)
        assert sorted(r for w in workers for r in w.ranks) == [1, 2, 3, 4]
        assert all(feed.is_current(s) for s in feed.servers)
        assert pair[0].called("/init_weight_transfer_engine") == (2 if version == 2 else 1)
    assert pair[0].called("/update_weights") == 3 * 3  # each type in a chunk of its own
    assert pair[0].called("/start_weight_update") == pair[0].called("/reset_prefix_cache") == 3
    feed.close()


@needs_vllm
def test_a_run_that_was_killed_left_an_update_open(over_store: None, pair: list[StandIn]) -> None:
    """Its connection cannot be broken before."""
    for server in pair:
        Workers(server)
    pair[0].updating = True
    feed_of(pair).send(0, iter(WEIGHTS.items()))
    assert [(s.version, s.updating) for s in pair] == [("0", False)] * 2


@needs_vllm
def test_the_base_is_lost_with_a_server(over_store: None, pair: list[StandIn]) -> None:
    for server in pair:
        Workers(server)
    feed = feed_of(pair)
    feed.send(-1, iter(WEIGHTS.items()))
    assert not feed.has_lost_base()
    pair[1].state["boot"] = "second"
    assert feed.has_lost_base()
    feed.send(-1, iter(WEIGHTS.items()))
    assert not feed.has_lost_base()
    feed.sender = None  # files are kept
    pair[1].state["boot"] = "third"
    assert not feed.has_lost_base()


@needs_vllm
def test_a_chunk_is_complete_before_the_engine_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[tuple[str, threading.Thread]] = []

    def note(what: str) -> Callable[[], None]:
        return lambda: did.append((what, threading.current_thread()))

    sender = Sender("nccl", [], rank=0, world_size=1)
    sender.engine = SimpleNamespace(send_weights=note("send"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(synchronize=note("synchronize")))
    sender.send(iter(list(WEIGHTS.items())[:1]))
    assert [what for what, _ in did] == ["synchronize", "send"]
    assert did[0][1] is threading.main_thread() is not did[1][1]


@needs_vllm
def test_memory_is_shared_by_a_worker_for_each_process(pair: list[StandIn]) -> None:
    sender = Sender("ipc", [Server(s.url, OPTIONS) for s in pair], rank=0, world_size=2)
    with pytest.raises(VLLMError, match=r"ipc, with 2 training processes, but 4 workers of servers.*use nccl"):
        sender.connect()


def test_the_run_has_no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        os.environ["SET_BY_AN_IMPORT"] = "1"
        raise MissingPackageError("No vLLM.")

    monkeypatch.setattr("lgrpo_lightning.samplers.vllm.transfer.import_vllm", fail)
    with pytest.raises(ImportError, match=r"No vLLM\. With sampler.server.transfer: files, .* the run needs no vLLM"):
        Sender("nccl", [], rank=0, world_size=1)
    assert "SET_BY_AN_IMPORT" not in os.environ


@needs_vllm
@pytest.mark.parametrize("at", ["/init_weight_transfer_engine", "/update_weights"])
def test_a_server_that_dies_ends_the_wait(at: str, over_store: None, pair: list[StandIn]) -> None:
    """The collective would go on waiting; the other ranks' share of the gathering is done to its end."""
    for server in pair:
        Workers(server)
    feed = feed_of(pair)
    if at == "/update_weights":
        feed.send(0, iter(WEIGHTS.items()))
        OverStore.hangs = True
    pair[1].on[at] = lambda _: (0, None)
    gathered = []
    started = time.monotonic()
    with pytest.raises(VLLMError, match=rf"did not reach the servers by nccl: .*{pair[1].url} broke off at {at}"):
        feed.send(1, ((gathered.append(n), (n, t))[1] for n, t in WEIGHTS.items()))
    assert time.monotonic() - started < 5
    assert gathered == (list(WEIGHTS) if at == "/update_weights" else [])
    assert not feed.parts


@needs_vllm
def test_a_server_started_again_in_a_rollout_has_lost_them(over_store: None, pair: list[StandIn]) -> None:
    for server in pair:
        Workers(server)
    feed = feed_of(pair)
    feed.send(0, iter(WEIGHTS.items()))
    feed.restore(feed.servers[0], time.monotonic())  # it was only slow
    pair[0].state["boot"], pair[0].version = "second", "default"
    assert not feed.is_current(feed.servers[0])
    with pytest.raises(VLLMError, match=r"lost the weights of this rollout.*--ckpt_path last.*transfer: files"):
        feed.restore(feed.servers[0], time.monotonic())


@needs_vllm
def test_handles_of_memory_arrive(pair: list[StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM's engine for CUDA IPC unpacks them; nothing is sent after an error."""
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferUpdateInfo

    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    came: list[Any] = []

    def update(body: Any) -> tuple[int, Any]:
        came.append(IPCWeightTransferUpdateInfo(**body["update_info"]))
        return 200, {}

    client = ServersClient([Server(s.url, OPTIONS) for s in pair], [1, 1])
    for server in pair:
        server.on["/update_weights"] = update
    handles = [{"GPU-1": (torch.Tensor, (3, 4), b"handle")}]
    client.update_weights({"names": ["w"], "dtype_names": ["float32"], "shapes": [[3, 4]], "ipc_handles": handles})
    assert [info.ipc_handles for info in came] == [handles] * 2
    pair[0].on["/update_weights"] = lambda _: (500, {"error": "no GPU"})
    pair[1].on["/update_weights"] = lambda _: (200, {})
    client.update_weights({"names": []})
    assert "no GPU" in str(client.error)
    before = pair[0].called("/update_weights")
    client.update_weights({"names": []})
    assert pair[0].called("/update_weights") == before


def test_chunks() -> None:
    chunks = list(cut_chunks(iter(WEIGHTS.items()), chunk_bytes=50))
    assert [[name for name, _ in chunk] for chunk in chunks] == [["embed", "norm"], ["half"], ["ids"]]
    assert [len(c) for c in cut_chunks(iter(WEIGHTS.items()), chunk_bytes=1)] == [1] * 4
    assert list(cut_chunks(iter(()))) == []


def test_addresses() -> None:
    assert find_address(["http://127.0.0.1:8000", "http://localhost"]) == "127.0.0.1"
