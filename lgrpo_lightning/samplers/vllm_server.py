"""vLLM engines in processes of their own, reached over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.interruption import abandon_if_stopping
from lgrpo_lightning.samplers.vllm_http import RELOAD, RefusedError, Server, ServerLostError
from lgrpo_lightning.samplers.vllm_options import ServerOptions
from lgrpo_lightning.samplers.vllm_transport import (
    Completion,
    Request,
    Transport,
    VLLMError,
    completion,
    sampling_arguments,
)
from lgrpo_lightning.samplers.vllm_weights import cast, weights_folder, write_weights
from lgrpo_lightning.samplers.vllm_worker import model_signature
from lgrpo_lightning.types import Sampling


class Servers(Transport):
    """One or several servers with the same weights, shared by all ranks: rank 0 feeds them.

    A server that goes away is waited for and given the current weights again; what it had not finished, or had
    sampled from other weights, is asked for again.

    Args:
        config: The policy's Hugging Face configuration: the servers must have the same model.
        options: Addresses and time-outs.
        ranks: (rank, world size) of the trainer.

    Raises:
        VLLMError: A server does not answer, or is not one of the kind that ``lgrpo serve`` starts.
    """

    def __init__(self, config: Any, options: ServerOptions, *, ranks: tuple[int, int]) -> None:
        self.options = options
        self.rank, self.world_size = ranks
        self.servers = [Server(url, options) for url in options.urls]
        self.peer = " and ".join(s.peer for s in self.servers)
        self.cleanup = ExitStack()
        self.current: tuple[str, int] | None = None  # where the weights are that the servers should have
        self.boots: dict[str, str] = {}  # which start of each server has them
        described = [self._connected(server, model_signature(config)) for server in self.servers]
        kinds = {d["dtype"] for d in described}
        if len(kinds) > 1:
            raise VLLMError(
                f"{self.peer} have different dtypes: {', '.join(sorted(kinds))}. Start them alike."
            )
        self.dtype = kinds.pop()
        self.max_model_len = min(d["max_model_len"] for d in described)

    def _connected(self, server: Server, expected: dict[str, Any]) -> dict[str, Any]:
        """Wait for a server and check that it is one for this run; what it says of itself."""
        server.wait(time.monotonic())
        found: dict[str, Any] = self._described(server)
        if found["model"] != expected:
            other = {k: (found["model"].get(k), v) for k, v in expected.items() if found["model"].get(k) != v}
            shown = ", ".join(f"{k} {there!r} (policy: {here!r})" for k, (there, here) in other.items())
            raise VLLMError(
                f"{server.peer} has another model than the policy: {shown or found['model']}. Start it with "
                f"`{RELOAD}`, with the configuration of this run."
            )
        if found["logprobs_mode"] != "processed_logprobs":
            raise VLLMError(
                f"{server.peer} gives {found['logprobs_mode']}, not the log-probs of the distribution it samples "
                f"from. Start it with `{RELOAD}`, or with --logprobs-mode processed_logprobs."
            )
        self.boots[server.url] = found["boot"]
        return found

    def _described(self, server: Server) -> dict[str, Any]:
        try:
            found = server.rpc("lgrpo_describe")
        except RefusedError as error:
            raise VLLMError(
                f"{server.peer} does not know how to take over weights ({error}). Start it with `{RELOAD}`."
            ) from error
        return dict(found)

    # ------------------------------------------------------------------------------------------ weights

    def push(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        """Rank 0 writes the weights to files and has every server read them; the others wait for the outcome."""
        outcome: list[Any] = [None]
        if self.rank == 0:
            try:
                outcome = [self._delivered(weights, version)]
            except Exception as error:
                outcome = [
                    error if isinstance(error, VLLMError) else VLLMError(f"{type(error).__name__}: {error}")
                ]
        for _ in weights:  # a collective on every rank, to the end, whatever happened
            pass
        if self.world_size > 1:
            torch.distributed.broadcast_object_list(outcome, src=0)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        folder, self.boots = outcome[0]
        self.current = (folder, version)

    def _delivered(self, weights: Iterator[tuple[str, Tensor]], version: int) -> tuple[str, dict[str, str]]:
        """(folder of the weights, start of each server that has them)."""
        stack = ExitStack()
        folder = stack.enter_context(weights_folder(self.options.weights_dir))
        path = write_weights(cast(weights, self.dtype), folder / f"version-{version}")
        self.current = (str(path), version)
        try:
            with ThreadPoolExecutor(len(self.servers)) as pool:
                boots = dict(zip(self.options.urls, pool.map(self._fed, self.servers), strict=True))
        except BaseException:
            stack.close()
            raise
        self.cleanup.close()  # the files of the version before
        self.cleanup = stack
        return str(path), boots

    def _fed(self, server: Server) -> str:
        """Have a server read the current weights; which start of it did. Waits for a server that is away."""
        since = time.monotonic()
        while True:
            try:
                self._feed_once(server)
                found = self._described(server)
            except ServerLostError:
                server.wait(since)
                continue
            assert self.current is not None
            if found["version"] == self.current[1]:
                return str(found["boot"])

    def _feed_once(self, server: Server) -> None:
        assert self.current is not None
        folder, version = self.current
        try:
            server.rpc("lgrpo_load_folder", str(Path(folder)), version)
        except RefusedError as error:
            raise VLLMError(
                f"{server.peer} did not take over the weights in {folder}: {error}. It must see that folder "
                "(sampler.server.weights_dir) and run with the configuration of this run; see its log."
            ) from error
        if not server.post("/reset_prefix_cache").get("success", True):
            raise VLLMError(
                f"{server.peer} could not reset its prefix cache: it is answering requests of somebody else. A "
                "server belongs to one run."
            )

    # ------------------------------------------------------------------------------------------ sampling

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, eos: Sequence[int]
    ) -> list[list[Completion]]:
        """All requests, spread over the servers; complete, or an error. A stop gives up those not sent yet."""
        found: dict[int, list[Completion]] = {}
        since = time.monotonic()
        while len(found) < len(requests):
            missing = [i for i in range(len(requests)) if i not in found]
            got = self._round(missing, requests, sampling, eos)
            since = time.monotonic() if got else since
            found |= got
            for server in self.servers:
                if any(self._server(i) is server for i in missing if i not in found):
                    self._restore(server, since)
        return [found[i] for i in range(len(requests))]

    def _server(self, index: int) -> Server:
        return self.servers[(index * self.world_size + self.rank) % len(self.servers)]

    def _round(
        self, indices: Sequence[int], requests: Sequence[Request], sampling: Sampling, eos: Sequence[int]
    ) -> dict[int, list[Completion]]:
        """Ask for every request once; those answered by servers that have the current weights, before and after."""

        def ask(index: int) -> list[Completion] | None:
            abandon_if_stopping()
            try:
                return self._asked(self._server(index), requests[index], sampling, eos)
            except ServerLostError:
                return None

        with ThreadPoolExecutor(min(len(indices), self.options.max_connections)) as pool:
            answers = dict(zip(indices, pool.map(ask, indices), strict=True))
        current = {s.url for s in self.servers if self._is_current(s)}
        return {i: a for i, a in answers.items() if a is not None and self._server(i).url in current}

    def _is_current(self, server: Server) -> bool:
        """Whether this is still the start of the server that was given the current weights."""
        try:
            found = self._described(server)
        except ServerLostError:
            return False
        version = None if self.current is None else self.current[1]
        same = found["boot"] == self.boots[server.url]
        if same and self.current is not None and found["version"] != version:
            raise VLLMError(
                f"{server.peer} has weights of version {found['version']}, not {version}: another run feeds it too. A "
                "server belongs to one run."
            )
        return bool(same)

    def _asked(
        self, server: Server, request: Request, sampling: Sampling, eos: Sequence[int]
    ) -> list[Completion]:
        body = {"prompt": list(request.prompt), "return_token_ids": True}
        answer = server.post("/v1/completions", body | sampling_arguments(request, sampling, eos))
        choices = sorted(answer["choices"], key=lambda c: c["index"])
        if len(choices) != request.count:
            raise VLLMError(f"{server.peer} gave {len(choices)} completions in place of {request.count}.")
        return [
            completion(server.peer, c["token_ids"], c["logprobs"]["token_logprobs"], c["finish_reason"])
            for c in choices
        ]

    def _restore(self, server: Server, since: float) -> None:
        """Wait for a server that was lost and give it the current weights again."""
        server.wait(since, between=abandon_if_stopping)
        try:
            if self.current is not None and self._described(server)["version"] != self.current[1]:
                self._feed_once(server)
            self.boots[server.url] = str(self._described(server)["boot"])
        except ServerLostError:
            return  # lost again: the next round notices

    # ------------------------------------------------------------------------------------------ the rest

    def sleep(self, level: int) -> None:
        """Free the servers' GPU memory. Called by every rank; the servers do it once."""
        if self.rank == 0:
            for server in self.servers:
                server.post(f"/sleep?level={level}")

    def wake(self) -> None:
        """Have the servers take their memory back."""
        if self.rank == 0:
            for server in self.servers:
                server.post("/wake_up")

    def close(self) -> None:
        """Remove the files of the weights. The servers go on."""
        self.cleanup.close()
