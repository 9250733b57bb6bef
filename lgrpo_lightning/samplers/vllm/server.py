"""vLLM engines in processes of their own, reached over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from lgrpo_lightning.contracts import Adapter
from lgrpo_lightning.distributed.interruption import abandon_if_stopping, carry_context
from lgrpo_lightning.samplers.vllm.feed import Feed, describe
from lgrpo_lightning.samplers.vllm.http import RELOAD, RefusedError, Server, ServerLostError
from lgrpo_lightning.samplers.vllm.key import is_loopback
from lgrpo_lightning.samplers.vllm.lora import write_adapter
from lgrpo_lightning.samplers.vllm.options import TRANSFERS, ServerOptions
from lgrpo_lightning.samplers.vllm.transfer import Sender
from lgrpo_lightning.samplers.vllm.transport import (
    Output,
    Request,
    Transport,
    VLLMError,
    check_completion,
    estimate_entropies,
)
from lgrpo_lightning.samplers.vllm.weights import cast, describe_model, write_weights


class Servers(Transport):
    """One or several servers with the same weights, shared by all ranks: rank 0 feeds them.

    A server that goes away is waited for and given the current weights again; what it had not finished, or had
    sampled from other weights, is asked for again.

    Args:
        model: The policy's causal LM: only its configuration and its device are read here.
        ranks: (rank, world size) of the trainer.
        lora: ``EngineOptions.lora``.
    """

    def __init__(
        self,
        model: Any,
        options: ServerOptions,
        *,
        ranks: tuple[int, int],
        adapter: Adapter | None = None,
        lora: str = "auto",
    ) -> None:
        self.options = options
        self.rank, self.world_size = ranks
        self.servers = [Server(place, options) for place in options.places]
        self.peer = " and ".join(s.peer for s in self.servers)
        self.feed = Feed(self.servers, rank=self.rank, world_size=self.world_size, weights_dir=options.weights_dir)
        descriptions = [self._connect(server, describe_model(model.config)) for server in self.servers]
        kinds = {d["dtype"] for d in descriptions}
        if len(kinds) > 1:
            raise VLLMError(f"{self.peer} have different dtypes: {', '.join(sorted(kinds))}. Start them alike.")
        self.dtype = kinds.pop()
        self.max_model_len = min(d["max_model_len"] for d in descriptions)
        transfer = self._choose_transfer([d["transfer"] for d in descriptions], model.device)
        if transfer != "files":
            self.feed.sender = Sender(transfer, self.servers, rank=self.rank, world_size=self.world_size)
        self.takes_adapter = self._takes_adapter([d["lora_rank"] or 0 for d in descriptions], adapter, lora)

    def _connect(self, server: Server, expected: Mapping[str, Any]) -> Mapping[str, Any]:
        """Wait for a server and check that it is one for this run; what it says of itself."""
        server.wait(time.monotonic(), between=abandon_if_stopping)
        state = describe(server)
        if state["model"] != expected:
            other = {k: (state["model"].get(k), v) for k, v in expected.items() if state["model"].get(k) != v}
            shown = ", ".join(f"{k} {there!r} (policy: {here!r})" for k, (there, here) in other.items())
            raise VLLMError(
                f"{server.peer} has another model than the policy: {shown or state['model']}. Start it with "
                f"`{RELOAD}`, with the configuration of this run."
            )
        if state["logprobs_mode"] != "processed_logprobs":
            raise VLLMError(
                f"{server.peer} gives {state['logprobs_mode']}, not the log-probs of the distribution it samples "
                f"from. Start it with `{RELOAD}`, or with --logprobs-mode processed_logprobs."
            )
        self.feed.boots[server.place] = state["boot"]
        return state

    def _choose_transfer(self, started: Sequence[Any], device: torch.device) -> Any:
        """How the weights get there: as the servers were started for."""
        wanted = started[0] if self.options.transfer == "auto" else self.options.transfer
        for server, transfer in zip(self.servers, started, strict=True):
            if transfer != wanted or transfer not in TRANSFERS:
                raise VLLMError(
                    f"{server.peer} was started for sampler.server.transfer: {transfer}, but the run or another "
                    f"server for {wanted}. Start all of them with `{RELOAD}`, with the configuration of this run."
                )
        if wanted != "files" and device.type != "cuda":
            raise VLLMError(
                f"{self.peer} take weights from GPU to GPU ({wanted}), and the policy is on the device {device.type}. "
                "Set sampler.server.transfer: files and start the servers again."
            )
        return wanted

    def _takes_adapter(self, ranks: Sequence[int], adapter: Adapter | None, lora: str) -> bool:
        """Whether all servers were started for adapters like this one."""
        if adapter is None or lora == "merge":
            return False
        here = all(is_loopback(urlsplit(server.url).hostname or "") for server in self.servers)
        if lora == "auto" and self.feed.sender is not None and self.options.weights_dir is None and not here:
            return False  # adapters are files, which a server on another machine does not see
        if lora == "adapter" and min(ranks) < adapter.rank:
            raise VLLMError(
                f"sampler.engine.lora is 'adapter', but {self.peer} take adapters up to rank {min(ranks)}, and the "
                f"policy's has {adapter.rank}. Start them with `{RELOAD}`, with the configuration of this run, or use "
                "merge or auto."
            )
        return min(ranks) >= adapter.rank

    def push(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        """Every server gets the weights from rank 0, in files or over the GPUs' network."""
        if self.feed.sender is not None:
            self.feed.send(version, cast(weights, self.dtype))
            return

        def write(folder: Path) -> Path:
            return write_weights(cast(weights, self.dtype), folder)

        self.feed.deliver("weights", version, write, weights)

    def push_adapter(self, adapter: Adapter, version: int) -> None:
        """The same for an adapter."""
        self.feed.deliver("adapter", version, lambda folder: write_adapter(adapter, folder), adapter.weights)

    def has_lost_base(self) -> bool:
        """Whether a server was started again since the base was sent to it without files."""
        return self.feed.has_lost_base()

    def generate(self, requests: Sequence[Request], arguments: Mapping[str, Any]) -> list[list[Output]]:
        """All requests, spread over the servers; complete, or an error. A stop abandons those not sent yet."""
        answers: dict[int, list[Output]] = {}
        since = time.monotonic()
        while len(answers) < len(requests):
            missing = [i for i in range(len(requests)) if i not in answers]
            got = self._ask_each(missing, requests, arguments)
            since = time.monotonic() if got else since
            answers |= got
            for server in self.servers:
                if any(self._choose_server(i) is server for i in missing if i not in answers):
                    self.feed.restore(server, since)
        return [answers[i] for i in range(len(requests))]

    def _choose_server(self, index: int) -> Server:
        return self.servers[(index * self.world_size + self.rank) % len(self.servers)]

    def _ask_each(
        self, indices: Sequence[int], requests: Sequence[Request], arguments: Mapping[str, Any]
    ) -> dict[int, list[Output]]:
        """Ask for every request once; those answered by servers that have the current weights, before and after."""

        def ask(index: int) -> list[Output] | None:
            abandon_if_stopping()
            try:
                return _ask(self._choose_server(index), requests[index], {**self.feed.model, **arguments})
            except ServerLostError:
                return None
            except RefusedError as error:
                if error.status != 404 or self.feed.is_current(self._choose_server(index)):
                    raise
                return None  # started anew, it does not know the adapter

        with ThreadPoolExecutor(min(len(indices), self.options.max_connections)) as pool:
            answers = dict(zip(indices, pool.map(carry_context(ask), indices), strict=True))
        # a server that started anew meanwhile has sampled from random weights
        current = {s.place for s in self.servers if self.feed.is_current(s)}
        return {i: a for i, a in answers.items() if a is not None and self._choose_server(i).place in current}

    def sleep(self, level: int) -> None:
        """Free the servers' GPU memory. Called by every rank; the servers do it once."""
        if self.rank == 0:
            for server in self.servers:
                server.post(f"/sleep?level={level}")

    def wake(self) -> None:
        """Have the servers take their memory back; on every rank they are awake afterwards. Collective."""
        self.feed.run_on_rank_0(lambda: [server.post("/wake_up") for server in self.servers])

    def close(self) -> None:
        """Remove the files of the weights. The servers go on."""
        self.feed.close()


def _ask(server: Server, request: Request, arguments: Mapping[str, Any]) -> list[Output]:
    body = {"prompt": list(request.prompt), "return_token_ids": True, "n": request.count, "seed": request.seed}
    entropies = bool(arguments["logprobs"])
    if entropies:
        body["return_tokens_as_token_ids"] = True  # texts of different tokens may be the same
    choices = sorted(server.post("/v1/completions", {**body, **arguments})["choices"], key=lambda c: c["index"])
    if len(choices) != request.count:
        raise VLLMError(f"{server.peer} gave {len(choices)} completions in place of {request.count}.")
    return [
        check_completion(
            server.peer,
            choice["token_ids"],
            choice["logprobs"]["token_logprobs"],
            choice["finish_reason"],
            estimate_entropies(choice["logprobs"]["top_logprobs"]) if entropies else None,
        )
        for choice in choices
    ]
