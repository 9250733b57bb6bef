"""Options of the vLLM engine and of the servers that run it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from lgrpo_lightning.errors import UserError, listed, mapped, require

Transfer = Literal["nccl", "ipc", "files"]
TRANSFERS: dict[Transfer, str] = {"nccl": "nccl", "ipc": "ipc", "files": "lgrpo_files"}
"""How weights reach an engine → the name of vLLM's weight-transfer engine."""
CPU_BLOCK = 32
CPU_CACHE_LIMIT = 4 * 2**30
FIXED = {
    "seed": 0,
    "load_format": "dummy",  # the weights come from the policy
    # else the model's generation_config.json changes temperature and stops behind our back
    "generation_config": "vllm",
    "logprobs_mode": "processed_logprobs",  # of the distribution really sampled from
    "worker_extension_cls": "lgrpo_lightning.samplers.vllm.worker.WorkerExtension",
}
OURS = {
    *FIXED, "model", "tokenizer", "max_logprobs", "weight_transfer_config",
    "dtype", "max_model_len", "max_num_seqs", "gpu_memory_utilization", "kv_cache_memory_bytes", "block_size",
    "enable_prefix_caching", "tensor_parallel_size", "enforce_eager", "enable_sleep_mode",
    "enable_lora", "max_lora_rank", "max_loras", "max_cpu_loras",
}  # fmt: skip
"""Arguments of vLLM that are set here or by an option."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How the engine is built, in process and by ``lgrpo serve``.

    Args:
        dtype: Type of the engine's weights; "auto" is the policy's.
        max_model_len: Most tokens of a prompt and its completion; null takes what the policy and the data need.
        max_num_seqs: Most completions that run at a time.
        gpu_memory_utilization: Share of the GPU that the engine in process may fill, weights included; the rest is
            for training. Unused on a CPU.
        kv_cache_gb: Memory of the key-value cache. Null: what is left of gpu_memory_utilization; on a CPU what
            max_num_seqs completions need, at most 4.
        block_size: Tokens of a cache block; only whole blocks of a prompt are shared. Null: 32 on a CPU, else
            vLLM's.
        prefix_caching: Keep prompts in the cache, so that a group computes its prompt once.
        tensor_parallel_size: GPUs that one engine is spread over. On a CPU: processes, each on cores of its own, which
            the environment variable ``VLLM_CPU_OMP_THREADS_BIND`` has to name, such as ``0-3|4-7``.
        enforce_eager: No CUDA graphs and no compilation. Null: on a CPU only.
        lora: How an adapter of the policy gets there: "adapter" leaves it to the engine, which is given the adapter
            alone; "merge" gives it all weights with the adapter added; "auto" merges where vLLM takes no adapter.
        extra: Further arguments of ``vllm.LLM``, by name.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 256
    gpu_memory_utilization: float = 0.3
    kv_cache_gb: float | None = None
    block_size: int | None = None
    prefix_caching: bool = True
    tensor_parallel_size: int = 1
    enforce_eager: bool | None = None
    lora: Literal["auto", "adapter", "merge"] = "auto"
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(
            "sampler.engine.",
            vars(self),
            (self.max_model_len is None or self.max_model_len >= 2, "max_model_len", "at least 2, or null"),
            (self.max_num_seqs >= 1, "max_num_seqs", "at least 1"),
            (0 < self.gpu_memory_utilization <= 1, "gpu_memory_utilization", "above 0 and at most 1"),
            (self.kv_cache_gb is None or self.kv_cache_gb > 0, "kv_cache_gb", "above 0, or null"),
            (self.block_size is None or self.block_size >= 1, "block_size", "at least 1, or null"),
            (self.tensor_parallel_size >= 1, "tensor_parallel_size", "at least 1"),
        )
        mapped("sampler.engine.extra", self.extra)
        if taken := sorted(OURS & set(self.extra)):
            raise UserError(
                f"sampler.engine.extra sets {', '.join(taken)}, which this sampler sets itself. Use the options of "
                "sampler.engine; the weights, the log-probs' kind and the seed are not free."
            )

    def make_arguments(
        self,
        config: Any,
        *,
        dtype: str,
        longest_sequence: int,
        cpu: bool,
        lora_rank: int | None = None,
        top: int = 0,
        transfer: Transfer = "files",
    ) -> dict[str, Any]:
        """Arguments of ``vllm.LLM``, and as flags those of the server.

        Args:
            config: The model's Hugging Face configuration.
            dtype: What "auto" stands for.
            longest_sequence: What a null ``max_model_len`` stands for.
            lora_rank: Largest rank of the adapters that the engine will apply; None for none.
            top: Most log-probs asked for beside a token's own; -1 all.
            transfer: How weights get there.
        """
        length = self.max_model_len or longest_sequence
        dtype = dtype if self.dtype == "auto" else self.dtype
        chosen: dict[str, Any] = {
            "dtype": dtype,
            "max_model_len": length,
            "max_num_seqs": self.max_num_seqs,
            "enable_prefix_caching": self.prefix_caching,
            "enforce_eager": cpu if self.enforce_eager is None else self.enforce_eager,
            "tensor_parallel_size": self.tensor_parallel_size,
            "max_logprobs": -1 if top == -1 else max(top, 20),  # 20 is vLLM's own; -1 are all
            "weight_transfer_config": {"backend": TRANSFERS[transfer]},
            **FIXED,
        }
        if block := self.block_size or (CPU_BLOCK if cpu else None):
            chosen["block_size"] = block
        if self.kv_cache_gb is not None:
            chosen["kv_cache_memory_bytes"] = int(self.kv_cache_gb * 2**30)
        elif cpu:
            needed = self.max_num_seqs * (length + CPU_BLOCK) * count_cache_bytes(config, dtype)
            least = (length + 2 * CPU_BLOCK) * count_cache_bytes(config, dtype)
            chosen["kv_cache_memory_bytes"] = max(least, min(needed, CPU_CACHE_LIMIT))
        else:
            chosen["gpu_memory_utilization"] = self.gpu_memory_utilization
        if lora_rank is not None:
            chosen |= {"enable_lora": True, "max_lora_rank": lora_rank, "max_loras": 1, "max_cpu_loras": 1}
        return chosen | self.extra


def is_address(text: str) -> bool:
    """Whether ``text`` is the address of a server.

    >>> [is_address(text) for text in ("http://127.0.0.1:8000", "http://a/b", "127.0.0.1:8000", "http://a:no", "")]
    [True, False, False, False, False]
    """
    try:
        parts = urlsplit(text)
        _ = parts.port  # an error where it is none
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.path.strip("/")


def count_cache_bytes(config: Any, dtype: str) -> int:
    """Bytes that one token takes in the key-value cache: keys and values of every layer."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * int(text.num_hidden_layers) * int(heads) * int(width) * (4 if dtype == "float32" else 2)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where the servers are, how weights get there, and how long to wait for them.

    Args:
        urls: Servers such as ``http://127.0.0.1:8000``, started by ``lgrpo serve``; prompts are spread over them.
            ``file:PATH`` is the server whose address ``lgrpo serve`` writes to the file PATH; a run waits for the file
            and reads it again where the server does not answer. None: the engine runs in process.
        transfer: How the servers get the weights: "nccl" from GPU to GPU, "ipc" through the memory of a GPU that
            trainer and server share, "files" through ``weights_dir``. "auto": nccl for servers on CUDA, else files.
        api_key_env: Environment variable that holds the API key (so that no configuration file does).
        retry_seconds: How long a server that does not answer is tried again, at the start and in a run.
        request_seconds: How long one request may take: a prompt's completions, or taking over the weights.
        max_connections: Maximum number of concurrent requests of one training process, over all servers.
        weights_dir: Folder that this process and the servers see, where weights are handed over. Null: /dev/shm, or
            the folder for temporary files.
    """

    urls: list[str] | str = field(default_factory=list)
    transfer: Literal["auto", "nccl", "ipc", "files"] = "auto"
    api_key_env: str = "VLLM_API_KEY"
    retry_seconds: float = 300.0
    request_seconds: float = 600.0
    max_connections: int = 64
    weights_dir: str | None = None

    def __post_init__(self) -> None:
        for url in self.places:
            is_file = url.startswith("file:") and url.removeprefix("file:").strip("/")
            if not is_file and not is_address(url):
                raise UserError(
                    f"sampler.server.urls has {url!r}; an address looks like http://127.0.0.1:8000, without a path, or "
                    "like file:PATH, where PATH is what `lgrpo serve` writes."
                )
        if len(set(self.places)) < len(self.places):
            raise UserError(f"sampler.server.urls names a server twice: {', '.join(self.places)}.")
        names = ("retry_seconds", "request_seconds", "max_connections")
        require("sampler.server.", vars(self), *((getattr(self, name) > 0, name, "above 0") for name in names))

    @property
    def places(self) -> tuple[str, ...]:
        """The servers as a list."""
        if isinstance(self.urls, str):
            if not self.urls.startswith("file:"):
                raise UserError(
                    f"sampler.server.urls is the string {self.urls!r}, where a list is meant: write [{self.urls!r}]. "
                    "If it is a string, it must be file:PATH."
                )
            return (self.urls,)
        return listed("sampler.server.urls", self.urls)
