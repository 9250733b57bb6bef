"""What runs inside vLLM's workers: a description of the engine, and the transfer engine that reads files."""

from __future__ import annotations

import uuid
from importlib.util import find_spec
from typing import Any

from lgrpo_lightning.samplers.vllm.options import TRANSFERS
from lgrpo_lightning.samplers.vllm.weights import describe_model, read_weights

BOOT = uuid.uuid4().hex
"""Of this start of the process."""


class WorkerExtension:
    """Methods added to vLLM's worker (``worker_extension_cls``); called by ``collective_rpc``."""

    def lgrpo_describe(self) -> dict[str, Any]:
        """Which process this is, and what model it serves."""
        given = self.vllm_config  # type: ignore[attr-defined]
        config, lora, transfer = given.model_config, given.lora_config, given.weight_transfer_config
        return {
            "boot": BOOT,
            "lora_rank": None if lora is None else int(lora.max_lora_rank),
            "model": describe_model(config.hf_config),
            "dtype": str(config.dtype).removeprefix("torch."),
            "max_model_len": int(config.max_model_len),
            "logprobs_mode": str(getattr(config.logprobs_mode, "value", config.logprobs_mode)),
            "transfer": {engine: name for name, engine in TRANSFERS.items()}.get(transfer and transfer.backend),
        }


class FileEngine:
    """Takes weights from the files of ``write_weights``, or in process from an iterator; vLLM has neither.

    It has the methods of vLLM's ``WeightTransferEngine`` that a worker calls. That class cannot be its base on a CPU:
    its ``update_weights`` ends with ``torch.accelerator.synchronize``, which fails where there is no accelerator.
    """

    supports_draft_weight_update = False

    def __init__(self, config: Any, vllm_config: Any, device: Any, model: Any) -> None:
        self.vllm_config, self.model = vllm_config, model

    def start_weight_update(self) -> None:
        """Have experts packed again on a CPU."""
        forget_experts(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Take over (Hugging Face name, tensor) pairs, one at a time; nothing of them is kept."""
        from vllm.model_executor.model_loader.reload.inplace import reload_weights
        from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload

        weights = update_info.get("weights") or read_weights(update_info["folder"])
        try:
            reload_weights(self.vllm_config, self.model, iter(weights), weights_path=None, is_checkpoint_format=True)
        except BaseException:
            # else layers keep what came, and the next weights are added to it
            finalize_layerwise_reload(self.model, self.vllm_config.model_config)
            raise

    def finish_weight_update(self) -> None:
        """Pack output heads again on a CPU."""
        refresh_heads(self.model)

    def reset_weight_update_target(self) -> None:
        """Nothing: there is one model."""

    def shutdown(self) -> None:
        """Nothing is held."""


def forget_experts(model: Any) -> None:
    """Have experts packed again on a CPU: those whose kernel is there already are left as they come."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


def refresh_heads(model: Any) -> None:
    """Pack the output heads again on a CPU: a head that is tied to the embedding is not reloaded by itself."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


if find_spec("vllm") is not None:  # this module is vLLM's to import, before it loads a model
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    WeightTransferEngineFactory.register_engine(TRANSFERS["files"], FileEngine)
