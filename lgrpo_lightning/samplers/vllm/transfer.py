"""Weights from GPU to GPU, by vLLM's transfer engines ``nccl`` and ``ipc``."""

from __future__ import annotations

import base64
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from queue import Empty, Queue
from threading import Thread
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from torch import Tensor

from lgrpo_lightning.errors import MissingPackageError
from lgrpo_lightning.samplers.vllm.http import Server
from lgrpo_lightning.samplers.vllm.install import import_vllm
from lgrpo_lightning.samplers.vllm.isolation import isolate_engine
from lgrpo_lightning.samplers.vllm.key import is_loopback
from lgrpo_lightning.samplers.vllm.transport import VLLMError

CHUNK_BYTES = 2**28
"""Weights are gathered, sent and taken over in parts of about this size."""
Outcome = Queue[Exception | None]


class ServersClient:
    """vLLM's ``VLLMWeightSyncClient``, for all servers of a run: every request goes to each of them.

    It raises nothing. It keeps the first error and sends nothing after it, as ranks that gather weights together have
    to reach the end together.

    Args:
        workers: Number of each server's workers.
    """

    def __init__(self, servers: Sequence[Server], workers: Sequence[int]) -> None:
        self.servers, self.workers = servers, workers
        self.error: Exception | None = None

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """With NCCL the workers of a server get the ranks after those of the servers before it."""
        infos = [dict(init_info) for _ in self.servers]
        for i, info in enumerate(infos if "rank_offset" in init_info else []):
            info["rank_offset"] += sum(self.workers[:i])
        self._post("/init_weight_transfer_engine", [{"init_info": info} for info in infos])

    def start_weight_update(self) -> None:
        """Nothing: the chunks of one update are sent one by one, and vLLM calls this for each."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """One chunk. Handles of memory are pickled, as vLLM's own client over HTTP does."""
        if handles := update_info.get("ipc_handles"):
            pickled = base64.b64encode(pickle.dumps(handles)).decode()
            update_info = {**update_info, "ipc_handles": None, "ipc_handles_pickled": pickled}
        self._post("/update_weights", [{"update_info": update_info} for _ in self.servers])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Nothing, as with ``start_weight_update``."""

    def _post(self, path: str, bodies: Sequence[Any]) -> None:
        """Ask all servers at once. After an error the others are not waited for: they may wait for each other."""
        outcomes: Outcome = Queue()
        if self.error is None:
            for server, body in zip(self.servers, bodies, strict=True):
                start_thread(partial(server.post, path, body), outcomes)
            self.error = next((error for _ in self.servers if (error := outcomes.get()) is not None), None)


class Sender:
    """Sends weights to servers that were started for this transfer; on every rank of the trainer.

    Args:
        transfer: "nccl": rank 0 sends, and all workers of all servers receive. "ipc": each rank shares the memory of
            its GPU with the worker on it.
        rank: Of this process among the trainer's ``world_size``.
    """

    def __init__(
        self, transfer: Literal["nccl", "ipc"], servers: Sequence[Server], *, rank: int, world_size: int
    ) -> None:
        try:
            with isolate_engine():
                import_vllm()
        except MissingPackageError as error:
            raise MissingPackageError(
                f"{error} With sampler.server.transfer: files, for both run and servers, the run needs no vLLM."
            ) from error
        self.transfer, self.servers, self.rank, self.world_size = transfer, servers, rank, world_size
        self.client = ServersClient(servers, [])
        self.engine: Any = None
        if transfer == "ipc" and rank > 0:  # it gathers handles of memory with the other ranks
            self._make_engine(self._make_init_info())

    @property
    def error(self) -> Exception | None:
        """What failed first since ``connect``."""
        return self.client.error

    def connect(self) -> None:
        """Have rank 0 and the workers meet. The servers must have no connection."""
        self.close()
        self.client = ServersClient(self.servers, [int(s.get("/get_world_size")["world_size"]) for s in self.servers])
        if self.transfer == "ipc" and sum(self.client.workers) != self.world_size:
            raise VLLMError(
                f"sampler.server.transfer is ipc, with {self.world_size} training processes, but "
                f"{sum(self.client.workers)} workers of servers. Each training process needs one worker on its GPU, "
                "and no other: start as many, or use nccl (on other GPUs) or files."
            )
        self._wait_for(partial(self._make_engine, self._make_init_info()))

    def send(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Go through ``weights`` to the end, which is collective, and send them as long as there is no ``error``."""
        for chunk in cut_chunks(weights):
            if self.transfer == "ipc" or (self.engine is not None and self.error is None):
                self.engine.source = chunk
                if torch.cuda.is_available():  # the engine reads the chunk on other streams, which do not wait for this
                    torch.cuda.current_stream().synchronize()
                self._wait_for(self.engine.send_weights)

    def close(self) -> None:
        """Break the connection. After an error it cannot be used again."""
        if self.engine is not None:
            self.engine.shutdown()
            self.engine = None

    def _make_engine(self, info: Any) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

        self.engine = WeightTransferTrainerFactory.trainer_init(info, client=self.client, source=Chunk())

    def _make_init_info(self) -> Any:
        if self.transfer == "ipc":
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            return IPCTrainerInitInfo(rank=self.rank)
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        from vllm.utils.network_utils import get_open_port

        return NCCLTrainerInitInfo(
            rank=self.rank,
            master_address=find_address([server.url for server in self.servers]),
            master_port=get_open_port(),
            world_size=1 + sum(self.client.workers),
            packed_buffer_size_bytes=CHUNK_BYTES,
        )

    def _wait_for(self, call: Callable[[], Any]) -> None:
        """Make a call in which NCCL waits for the servers without end; the wait is over once a request failed."""
        if self.transfer == "ipc":  # it waits for requests alone, and for the other ranks on this thread
            call()
            return
        device = torch.accelerator.current_device_index() if torch.accelerator.is_available() else None

        def run() -> None:
            if device is not None:
                torch.accelerator.set_device_index(device)
            with torch.no_grad():
                call()

        outcome: Outcome = Queue()
        start_thread(run, outcome)
        while self.error is None:
            try:
                self.client.error = outcome.get(timeout=0.05) or self.error
                return
            except Empty:
                continue


class Chunk(list[tuple[str, Tensor]]):
    """Some weights, as vLLM's ``WeightSource``."""

    def metadata(self) -> list[Any]:
        """Name, type and shape of each."""
        from vllm.distributed.weight_transfer import ParamMeta

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self]


def cut_chunks(weights: Iterator[tuple[str, Tensor]], *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """The weights in order, on this process's GPU where there is one, about ``chunk_bytes`` of one type at a time.

    vLLM packs a chunk without gaps and fails to unpack a tensor that begins in the middle of a number of its type.
    """
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    chunk, size = Chunk(), 0
    for name, tensor in weights:
        if chunk and (size >= chunk_bytes or chunk[-1][1].dtype != tensor.dtype):
            yield chunk
            chunk, size = Chunk(), 0
        chunk.append((name, tensor.to(device)))
        size += tensor.numel() * tensor.element_size()
    if chunk:
        yield chunk


def find_address(urls: Sequence[str]) -> str:
    """The address of this machine that all servers reach."""
    found: list[str] = []
    for parts in map(urlsplit, urls):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((parts.hostname, parts.port or 80))  # sends nothing
            found.append(probe.getsockname()[0])
    return next((address for address in found if not is_loopback(address)), found[0])


def start_thread(call: Callable[[], Any], outcome: Outcome) -> None:
    """Make ``call`` on a thread that the end of the process does not wait for; its error, or None, is the outcome."""

    def run() -> None:
        try:
            call()
        except Exception as error:
            outcome.put(error)
        else:
            outcome.put(None)

    Thread(target=run, daemon=True).start()
