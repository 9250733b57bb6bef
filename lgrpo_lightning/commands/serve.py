"""``lgrpo serve``: a vLLM server that ``VLLMSampler`` feeds with weights."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.reading import read_config

if TYPE_CHECKING:
    from lgrpo_lightning.samplers.vllm.options import ServerOptions

EPILOG = """\
Further options go to vLLM as they are, after --:   lgrpo serve --config run.yaml -- --api-server-count 2
Then train with it:   lgrpo fit --config run.yaml --model.sampler.init_args.server.urls='["http://127.0.0.1:8000"]'

The server starts with random weights; a run gives it the policy's. Its API key is the environment variable
VLLM_API_KEY, or one that this command makes and writes to a file of yours, which runs on this machine read.
"""


def main(argv: Sequence[str]) -> int:
    """Start the server in place of this process; returns only where it cannot, or after ``--dry_run``."""
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        prog="lgrpo serve",
        description="Start a vLLM server for the model of a run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-c", "--config", type=Path, required=True, help="the run's configuration (YAML): model and engine")
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=int, default=8000, help="default: 8000; 0: a free one")
    add("--address_file", type=Path, help="write the server's address there (default: the file of server.urls)")
    add("--dry_run", action="store_true", help="print the server's command and stop")
    options = parser.parse_args(words[1:end])
    port = find_port(options.host, options.port)
    run = load_run(options.config)
    command = build_command(run, host=options.host, port=port) + words[end + 1 :]
    print(shlex.join(command), flush=True)
    if not options.dry_run:
        servers = read_server_options(run)
        environment = prepare_environment(options.host, port, servers)
        write_address(choose_file(servers, options.address_file), options.host, port)
        os.execve(command[0], command, os.environ | environment)
    return 0


def read_server_options(run: Mapping[str, Any]) -> ServerOptions:
    """The sampler's options of servers."""
    from lgrpo_lightning.commands.entries import find_drawing_sampler
    from lgrpo_lightning.samplers.vllm.options import ServerOptions

    options = find_drawing_sampler(run["model"].get("sampler")).get("init_args") or {}
    return ServerOptions(**(options.get("server") or {}))


def choose_file(options: ServerOptions, chosen: Path | None) -> Path | None:
    """The file for the address: the one of the command line, else that of ``server.urls`` where it is one file."""
    from lgrpo_lightning.samplers.vllm.http import locate

    files = [locate(place) for place in options.places if place.startswith("file:")]
    if chosen is None and len(files) > 1:
        raise UserError(
            f"sampler.server.urls names {len(files)} files. Say which one this server writes, such as "
            f"--address_file {files[0]}"
        )
    return chosen or next(iter(files), None)


def write_address(path: Path | None, host: str, port: int) -> None:
    """Write the address into the file, which is complete as soon as it is there."""
    if path is None:
        return
    name = find_name() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.writing-{os.getpid()}")
    beside.write_text(f"http://{name}:{port}\n")
    beside.replace(path)
    print(f"Address: in {path}", flush=True)


def find_name() -> str:
    """The name under which other machines reach this one."""
    from lgrpo_lightning.samplers.vllm.key import is_loopback

    name = socket.getfqdn()
    if not name.startswith("localhost"):
        return name
    name = socket.gethostname()
    with suppress(OSError):
        if not all(is_loopback(str(address[0])) for *_, address in socket.getaddrinfo(name, None)):
            return name
    raise UserError(
        f"The name of this machine is {name}, which other machines do not reach. Say under which name or address of "
        "this machine they do: --host NAME"
    )


def prepare_environment(host: str, port: int, options: ServerOptions) -> dict[str, str]:
    """Environment variables of the server: what it lets in (``Gate``), and what the sampler calls."""
    from lgrpo_lightning.samplers.vllm.gate import LOOPBACK_ONLY
    from lgrpo_lightning.samplers.vllm.install import import_vllm
    from lgrpo_lightning.samplers.vllm.key import KEY, is_loopback

    import_vllm()  # before a key is made for nothing
    return {
        KEY: provide_key(host, port),
        LOOPBACK_ONLY: str(int(is_loopback(host))),
        "VLLM_SERVER_DEV_MODE": "1",  # /collective_rpc
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        # handles of a GPU's memory come pickled
        **({"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"} if options.transfer == "ipc" else {}),
    }


def provide_key(host: str, port: int) -> str:
    """The key of the variable VLLM_API_KEY, or a new one; says where a run finds it."""
    from lgrpo_lightning.samplers.vllm.key import KEY, is_loopback, locate_key, make_key

    if key := os.environ.get(KEY):
        return key
    key, path = make_key(port), locate_key(port)
    print(f"API key: in {path}, for you alone." + (f" It is {key}" if sys.stdout.isatty() else ""))
    if is_loopback(host):
        print("Runs on this machine read it there. ", end="")
    print(f"Elsewhere: export {KEY}=$(cat {path})", flush=True)
    return key


def find_port(host: str, port: int) -> int:
    """The port, or a free one for 0; refuses one that is taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return int(probe.getsockname()[1])
        except OSError as error:
            raise UserError(
                f"Port {port} of {host} cannot be used ({error.strerror}). Choose another with --port, or stop what "
                "listens there."
            ) from error


def load_run(path: Path) -> Mapping[str, Any]:
    """The configuration of a run."""
    run = read_config(path)
    if not isinstance(run.get("model"), dict):
        raise UserError(f"{path} has no part 'model'; give the configuration of a run, as for `lgrpo fit`.")
    return run


def build_command(run: Mapping[str, Any], *, host: str, port: int) -> list[str]:
    """The command that starts the server.

    Args:
        run: A run's configuration; read are ``model.policy``, the sampler's options, and the longest sequence where
            ``data.max_prompt_length`` tells it.
    """
    from lgrpo_lightning.commands.entries import find_drawing_sampler
    from lgrpo_lightning.contracts import Adapter
    from lgrpo_lightning.functional.sampling import Sampling
    from lgrpo_lightning.policy import PolicyConfig
    from lgrpo_lightning.policy.loading import find_context_length, load_config
    from lgrpo_lightning.samplers.vllm.lora import find_adapter_rank
    from lgrpo_lightning.samplers.vllm.options import EngineOptions

    model = run["model"]
    policy = PolicyConfig.from_options(model.get("policy") or {})
    options = find_drawing_sampler(model.get("sampler")).get("init_args") or {}
    engine = options.get("engine") or {}
    config, cpu, rank = load_config(policy), _runs_on_cpu(), None
    if (lora := policy.lora) is not None:
        targets = () if lora.targets == "all-linear" else tuple(lora.targets)
        adapter = Adapter(rank=lora.rank, alpha=lora.alpha, rslora=lora.rslora, targets=targets, weights=iter(()))
        rank = find_adapter_rank(config, adapter, engine.get("lora", "auto"))
    longest = find_context_length(config)
    if prompt := (run.get("data") or {}).get("max_prompt_length"):
        new = (model.get("sampling") or {}).get("max_new_tokens", Sampling().max_new_tokens)
        longest = min(longest, int(prompt + new))
    transfer = read_server_options(run).transfer
    if cpu and transfer not in ("auto", "files"):
        raise UserError(f"sampler.server.transfer is {transfer}, and vLLM runs on a CPU here. Use files, or auto.")
    # with ipc the GPU is the trainer's, too
    alone = {} if transfer == "ipc" else {"gpu_memory_utilization": 0.9}
    arguments = EngineOptions(**(alone | engine)).make_arguments(
        config,
        dtype=policy.dtype,
        longest_sequence=longest,
        cpu=cpu,
        lora_rank=rank,
        top=options.get("entropy_top", 0),
        transfer="files" if cpu else "nccl" if transfer == "auto" else transfer,
    )
    if options.get("sleep_level") and not cpu:
        arguments["enable_sleep_mode"] = True
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", policy.resolved_path, "--tokenizer", policy.resolved_tokenizer),
        *("--host", host, "--port", str(port)),
        *("--middleware", "lgrpo_lightning.samplers.vllm.gate.Gate"),
        *(["--revision", policy.revision] if policy.revision else []),
        *(word for name, value in arguments.items() for word in write_flag(name, value)),
    ]


def _runs_on_cpu() -> bool:
    """Whether vLLM will run on the CPU; without vLLM, which a dry run does not need, whether PyTorch has no GPU."""
    if find_spec("vllm") is None:
        import torch

        return not torch.cuda.is_available()
    from lgrpo_lightning.samplers.vllm.install import import_vllm

    import_vllm()
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def write_flag(name: str, value: Any) -> list[str]:
    """An argument of ``vllm.LLM`` as words of the server's command line.

    >>> write_flag("enforce_eager", True), write_flag("max_model_len", 256)
    (['--enforce-eager'], ['--max-model-len', '256'])
    """
    words = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [words if value else words.replace("--", "--no-", 1)]
    return [words, json.dumps(value) if isinstance(value, dict | list) else str(value)]
