"""Weights for servers: in files, which a server that was started anew reads again, or from GPU to GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lgrpo_lightning.distributed.interruption import AbandonedError, abandon_if_stopping
from lgrpo_lightning.samplers.vllm.http import RELOAD, RefusedError, Server, ServerLostError
from lgrpo_lightning.samplers.vllm.transfer import Sender
from lgrpo_lightning.samplers.vllm.transport import VLLMError
from lgrpo_lightning.samplers.vllm.weights import open_weights_folder

Kind = Literal["weights", "adapter"]
NONE = "none"
"""vLLM's version of weights that have not arrived as a whole."""
STAGGER = 0.5
"""Seconds between two ranks that look whether a server that started anew has its weights again."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What every server should have: all weights, or an adapter on top of them; the files, where there are any."""

    kind: Kind
    folder: str | None
    version: int

    @property
    def name(self) -> str:
        """What servers call the adapter."""
        return f"lgrpo-{self.version}"


class Feed:
    """Keeps servers on the weights last delivered: every rank knows the servers, rank 0 delivers."""

    def __init__(self, servers: Sequence[Server], *, rank: int, world_size: int, weights_dir: str | None) -> None:
        self.servers, self.rank, self.world_size = servers, rank, world_size
        self.weights_dir = weights_dir
        self.sender: Sender | None = None  # for weights without files
        self.connected: dict[str, str] = {}  # which start of each server it has met
        self.parts: tuple[Part, ...] = ()  # the weights, then the adapter where there is one
        self.boots: dict[str, str] = {}  # which start of each server has them
        self.files: dict[Kind, ExitStack] = {"weights": ExitStack(), "adapter": ExitStack()}

    @property
    def version(self) -> str:
        """What the servers call what was delivered last: the versions of the weights and of the adapter."""
        return "+".join(str(part.version) for part in self.parts)

    @property
    def model(self) -> dict[str, str]:
        """The field of a completion request that names the adapter, where there is one."""
        return {"model": self.parts[-1].name} if len(self.parts) > 1 else {}

    def deliver(
        self, kind: Kind, version: int, write: Callable[[Path], Path], tensors: Iterator[tuple[str, Tensor]]
    ) -> None:
        """Rank 0 writes files and has every server read them; the others wait for the outcome. Collective.

        Args:
            write: Writes the files into a folder that does not exist yet, from ``tensors``.
            tensors: Gone through to the end on every rank, whatever happens: each may be a collective.
        """
        self.parts, self.boots = self.run_on_rank_0(lambda: self._write_and_read(kind, version, write), tensors=tensors)

    def send(self, version: int, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Have ``sender`` send all weights, which are gathered once. Collective."""
        assert self.sender is not None
        self.parts = ()
        self.boots = self.run_on_rank_0(self._open_update)
        self.sender.send(weights)
        self.run_on_rank_0(lambda: self._finish_update(str(version)))
        self.parts = (Part(kind="weights", folder=None, version=version),)

    def has_lost_base(self) -> bool:
        """Whether a server was started again since the base of an adapter was sent, of which no files are kept.

        Collective.
        """
        return self.sender is not None and bool(self.run_on_rank_0(lambda: self._find_boots() != self.connected))

    def run_on_rank_0(self, call: Callable[[], Any], *, tensors: Iterator[tuple[str, Tensor]] | None = None) -> Any:
        """What ``call`` gives on rank 0, or the error that it fails with, on every rank once it is done. Collective."""
        outcome: list[Any] = [None]
        if self.rank == 0:
            try:
                outcome = [call()]
            except (VLLMError, AbandonedError) as error:
                outcome = [error]
            except Exception as error:
                outcome = [VLLMError(f"{type(error).__name__}: {error}")]
        # each tensor is a collective: a rank that stopped half-way would leave the others waiting
        for _ in tensors or ():
            pass
        if self.world_size > 1:
            torch.distributed.broadcast_object_list(outcome, src=0)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def is_current(self, server: Server) -> bool:
        """Whether this start of the server was given the current weights; an error where another run feeds it."""
        try:
            state = describe(server)
        except ServerLostError:
            return False
        same = state["boot"] == self.boots[server.place]
        if same and self.parts and state["version"] != self.version:
            raise VLLMError(
                f"{server.peer} has weights of version {state['version']}, not {self.version}: another run feeds it "
                "too. A server belongs to one run."
            )
        return bool(same)

    def restore(self, server: Server, since: float) -> None:
        """Wait for a server that was lost and give it the current weights again.

        Every rank that misses it does, one after the other: the later ones find it restored.
        """
        server.wait(since, between=abandon_if_stopping)
        time.sleep(STAGGER * min(self.rank, 10))
        try:
            if self.parts and describe(server)["version"] != self.version:
                self._load_into(server)
            self.boots[server.place] = str(describe(server)["boot"])
        except ServerLostError:
            return  # lost again: the next round notices

    def close(self) -> None:
        """Remove the files, and break the connection."""
        for files in self.files.values():
            files.close()
        if self.sender is not None:
            self.sender.close()

    def _write_and_read(
        self, kind: Kind, version: int, write: Callable[[Path], Path]
    ) -> tuple[tuple[Part, ...], dict[str, str]]:
        """(what the servers have now, which start of each has it)."""
        files = ExitStack()
        folder = files.enter_context(open_weights_folder(self.weights_dir))
        before = self.parts
        try:
            part = Part(kind=kind, folder=str(write(folder / f"version-{version}")), version=version)
            self.parts = (part,) if kind == "weights" else (self.parts[0], part)
            with ThreadPoolExecutor(len(self.servers)) as pool:
                places = [server.place for server in self.servers]
                boots = dict(zip(places, pool.map(self._feed, self.servers), strict=True))
        except BaseException:
            self.parts = before
            files.close()
            raise
        self.files[kind].close()  # the files of the version before
        self.files[kind] = files
        return self.parts, boots

    def _feed(self, server: Server) -> str:
        """Have a server read the current weights; which start of it did. Waits for a server that is away."""
        since = time.monotonic()
        while True:
            try:
                self._load_into(server)
                state = describe(server)
            except ServerLostError:
                server.wait(since, between=abandon_if_stopping)
                continue
            if state["version"] == self.version:
                return str(state["boot"])
            if time.monotonic() > since + server.options.retry_seconds:
                raise VLLMError(
                    f"{server.peer} has weights of version {state['version']} whenever it was given {self.version}: "
                    "another run feeds it too. A server belongs to one run."
                )

    def _load_into(self, server: Server) -> None:
        """Have a server read all parts, but not the base of an adapter that it has already."""
        base = describe(server)["version"].partition("+")[0] if len(self.parts) > 1 else NONE
        for part in self.parts:
            if part.kind == "weights" and base == str(part.version):
                continue
            if part.folder is None:
                raise VLLMError(
                    f"{server.peer} was started again and lost the weights of this rollout. They were sent without "
                    "files, so the run has to be started again, with --ckpt_path last. With sampler.server.transfer: "
                    "files it would go on."
                )
            try:
                if part.kind == "weights":
                    begin_update(server)
                    server.post("/update_weights", {"update_info": {"folder": part.folder}})
                    server.post("/finish_weight_update", {"weight_version": str(part.version)})
                else:
                    _adapt(server, part, self.version)
            except RefusedError as error:
                raise VLLMError(
                    f"{server.peer} did not take over the {part.kind} in {part.folder}: {error}. It must see that "
                    "folder (sampler.server.weights_dir) and run with the configuration of this run; see its log."
                ) from error
        _reset_cache(server)

    def _open_update(self) -> dict[str, str]:
        """Wait for all servers, connect to those that were started anew, and begin; which start of each it is."""
        assert self.sender is not None
        boots = self._find_boots()
        if boots != self.connected:
            self.connected = {}
            for server in self.servers:
                close_update(server)
                server.post("/shutdown_weight_transfer_engine")  # of the run before
            self.sender.connect()
            self._check_sender()
            self.connected = boots
        for server in self.servers:
            begin_update(server)
        return boots

    def _find_boots(self) -> dict[str, str]:
        """Which start of each server it is; waits for all."""
        since = time.monotonic()
        for server in self.servers:
            server.wait(since, between=abandon_if_stopping)
        return {server.place: str(describe(server)["boot"]) for server in self.servers}

    def _finish_update(self, version: str) -> None:
        self._check_sender()
        for server in self.servers:
            server.post("/finish_weight_update", {"weight_version": version})
            _reset_cache(server)

    def _check_sender(self) -> None:
        assert self.sender is not None
        if self.sender.error is not None:
            raise VLLMError(
                f"The weights did not reach the servers by {self.sender.transfer}: {self.sender.error} Look at their "
                f"logs, start them again (`{RELOAD}`), and then the run with --ckpt_path last. Where GPUs cannot reach "
                "each other, set sampler.server.transfer: files for both."
            ) from self.sender.error


def begin_update(server: Server) -> None:
    """Begin an update; half-loaded weights have no version."""
    server.post("/update_weight_version", {"new_version": NONE})
    try:
        server.post("/start_weight_update")
    except RefusedError:
        close_update(server)
        server.post("/start_weight_update")


def close_update(server: Server) -> None:
    """Close an update that a run left open when it was killed.

    Layers that it had loaded in part are set back, else the next weights would be added to that part.
    """
    with suppress(RefusedError):  # none is open
        server.post("/finish_weight_update")


def _reset_cache(server: Server) -> None:
    if not server.post("/reset_prefix_cache").get("success", True):
        raise VLLMError(
            f"{server.peer} could not reset its prefix cache: it is answering requests of somebody else. A "
            "server belongs to one run."
        )


def _adapt(server: Server, part: Part, version: str) -> None:
    """Put an adapter in the place of those of earlier versions."""
    for model in server.get("/v1/models")["data"]:
        if str(model["id"]).startswith("lgrpo-"):
            server.post("/v1/unload_lora_adapter", {"lora_name": model["id"]})
    server.post("/v1/load_lora_adapter", {"lora_name": part.name, "lora_path": part.folder})
    server.post("/update_weight_version", {"new_version": version})


def describe(server: Server) -> Mapping[str, Any]:
    """What a server says of itself."""
    try:
        state = {**server.call_worker("lgrpo_describe"), "version": server.get("/weight_info")["weight_version"]}
    except RefusedError as error:
        raise VLLMError(
            f"{server.peer} does not know how to take over weights ({error}). Start it with `{RELOAD}`."
        ) from error
    return state
