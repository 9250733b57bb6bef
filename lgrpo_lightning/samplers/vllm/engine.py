"""A vLLM engine inside the training process."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.contracts import Adapter
from lgrpo_lightning.samplers.vllm.install import import_vllm
from lgrpo_lightning.samplers.vllm.isolation import isolate_engine
from lgrpo_lightning.samplers.vllm.lora import find_adapter_rank, write_adapter
from lgrpo_lightning.samplers.vllm.options import EngineOptions
from lgrpo_lightning.samplers.vllm.transport import (
    Output,
    Request,
    Transport,
    VLLMError,
    check_completion,
    estimate_entropies,
)
from lgrpo_lightning.samplers.vllm.weights import cast, open_weights_folder, write_description, write_weights

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives here: weights are handed over by reference
    "VLLM_NO_USAGE_STATS": "1",
}

ADAPTER_NUMBER = 1
"""vLLM's id of the policy's adapter."""


class InProcessEngine(Transport):
    """Owns an engine in this process; each rank of a run has its own.

    Args:
        model: The policy's causal LM: only its configuration is read here.
        longest_sequence: Most tokens of a prompt and its completion.
        ranks: (rank, world size) of the trainer.
        sleeps: Whether the engine will be asked to sleep.
        top: Most log-probs that requests will ask for beside a token's own; -1 all.

    Raises:
        ImportError: vLLM is missing or broken.
        ValueError: ``options.lora`` is "adapter", and vLLM does not take this one.
        VLLMError: The engine did not start.
    """

    peer = "The vLLM engine in this process"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        options: EngineOptions,
        *,
        longest_sequence: int,
        ranks: tuple[int, int],
        adapter: Adapter | None = None,
        sleeps: bool = False,
        top: int = 0,
    ) -> None:
        self.options = options
        self.ranks = ranks
        self.llm: Any = None
        self.adapters = ExitStack()  # the file of the adapter in use
        self.lora_request: Any = None
        environment = ENVIRONMENT | {"VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR")}
        with isolate_engine(environment | self._describe_ranks()), TemporaryDirectory() as folder:
            self.vllm = import_vllm()
            from vllm.platforms import current_platform

            self.cuda = not current_platform.is_cpu()
            lora_rank = find_adapter_rank(model.config, adapter, options.lora)
            self.takes_adapter = lora_rank is not None
            arguments = options.make_arguments(
                model.config,
                dtype=str(model.dtype).removeprefix("torch."),
                longest_sequence=longest_sequence,
                cpu=not self.cuda,
                lora_rank=lora_rank,
                top=top,
            )
            self.dtype, self.max_model_len = arguments["dtype"], arguments["max_model_len"]
            self.llm = self._start(write_description(model, tokenizer, Path(folder)), arguments, sleeps)

    def _start(self, path: Path, arguments: dict[str, Any], sleeps: bool) -> Any:
        # every rank has an engine of its own; vLLM would start processes of its own for them
        if self.ranks[1] > 1:
            arguments["distributed_executor_backend"] = "external_launcher"
        if self.cuda and sleeps:
            arguments["enable_sleep_mode"] = True
        try:
            return self.vllm.LLM(model=str(path), **arguments)
        except Exception as error:
            self._release()
            shown = ", ".join(f"{k}={v!r}" for k, v in arguments.items() if k not in ("seed", "load_format"))
            raise VLLMError(
                f"{self.peer} did not start ({type(error).__name__}: {error}). It was given {shown}. Where memory is "
                "short, lower sampler.engine.gpu_memory_utilization, kv_cache_gb, max_model_len or max_num_seqs; "
                "VLLM_LOGGING_LEVEL=INFO shows the engine's log."
            ) from error

    def _describe_ranks(self) -> dict[str, str]:
        """How vLLM learns the ranks of a run of several processes."""
        rank, world_size = self.ranks
        if world_size == 1:
            return {}
        local = torch.cuda.current_device() if torch.cuda.is_available() else rank
        return {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(local)}

    def push(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        """Stream the weights in, one parameter at a time."""
        with isolate_engine(), torch.no_grad():
            stream = cast(weights, self.dtype)
            if self.options.tensor_parallel_size == 1:
                self._take_over({"weights": stream})
            else:  # the workers are processes of their own
                with open_weights_folder(None) as folder:
                    self._take_over({"folder": str(write_weights(stream, folder / "weights"))})
            self._reset_prefix_cache()

    def _take_over(self, update: dict[str, Any]) -> None:
        self.llm.start_weight_update()
        self.llm.update_weights({"update_info": update})
        self.llm.finish_weight_update()

    def push_adapter(self, adapter: Adapter, version: int) -> None:
        """Hand the adapter over as a file in memory."""
        files = ExitStack()
        path = str(write_adapter(adapter, files.enter_context(open_weights_folder(None)) / "adapter"))
        with isolate_engine():
            from vllm.lora.request import LoRARequest

            self.lora_request = LoRARequest(f"lgrpo-{version}", ADAPTER_NUMBER, path)
            self.llm.llm_engine.add_lora(LoRARequest(f"lgrpo-{version}", ADAPTER_NUMBER, path, load_inplace=True))
            self._reset_prefix_cache()
        self.adapters.close()
        self.adapters = files

    def _reset_prefix_cache(self) -> None:
        if not self.llm.reset_prefix_cache():
            raise VLLMError(f"{self.peer} could not reset its prefix cache: requests are still running.")

    def generate(self, requests: Sequence[Request], arguments: Mapping[str, Any]) -> list[list[Output]]:
        """All requests in one batch."""
        prompts = [{"prompt_token_ids": list(r.prompt)} for r in requests]
        options = {**arguments, "detokenize": bool(arguments["stop"]), "flat_logprobs": True}
        params = [self.vllm.SamplingParams(n=r.count, seed=r.seed, **options) for r in requests]
        with isolate_engine():
            outputs = self.llm.generate(prompts, params, use_tqdm=False, lora_request=self.lora_request)
        entropies = bool(arguments["logprobs"])
        return [
            # vLLM gives the completions of a prompt in the order in which they end
            [self._read_completion(o, entropies=entropies) for o in sorted(x.outputs, key=lambda o: o.index)]
            for x in outputs
        ]

    def _read_completion(self, output: Any, *, entropies: bool) -> Output:
        count, flat = len(output.token_ids), output.logprobs
        starts, ends = flat.start_indices[:count], flat.end_indices[:count]
        logprobs = [flat.logprobs[i] for i in starts]
        tops = (
            dict(zip(flat.token_ids[a:b], flat.logprobs[a:b], strict=True))  # the drawn token is there twice
            for a, b in zip(starts, ends, strict=True)
        )
        spread = estimate_entropies(tops) if entropies else None
        return check_completion(self.peer, output.token_ids, logprobs, output.finish_reason, spread)

    def sleep(self, level: int) -> None:
        """Free GPU memory; on a CPU there is nothing to free."""
        if self.cuda:
            self.llm.sleep(level=level)

    def wake(self) -> None:
        """Take the GPU memory back."""
        if self.cuda:
            self.llm.wake_up()

    def close(self) -> None:
        """Shut the engine down. The process groups of a run of several ranks stay as they are."""
        self.adapters.close()
        if self.llm is None:
            return
        with isolate_engine():
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            self._release()

    def _release(self) -> None:
        from vllm.distributed import parallel_state

        # memory of the engine is free only once nothing refers to it
        gc.collect()
        if self.ranks[1] == 1:
            parallel_state.cleanup_dist_env_and_memory()
        else:
            _leave_groups(parallel_state)


def _leave_groups(parallel_state: Any) -> None:
    """Destroy vLLM's process groups but not the trainer's."""
    parallel_state.destroy_model_parallel()
    if parallel_state._WORLD is not None:
        parallel_state._WORLD.destroy()
        parallel_state._WORLD = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
