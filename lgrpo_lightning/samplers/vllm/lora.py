"""Adapters in the engine: which it takes as they are, and how they are handed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lgrpo_lightning.contracts import Adapter
from lgrpo_lightning.errors import UserError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that vLLM can be started for."""
TARGETS = {
    "q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "gate_proj", "up_proj", "down_proj", "gate_up_proj",
}  # fmt: skip
"""Modules whose adapters vLLM applies in every architecture that takes any."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Entries of configurations with the number of experts."""


def find_adapter_rank(config: Any, adapter: Adapter | None, wanted: str) -> int | None:
    """The rank to start an engine for, so that it applies ``adapter`` itself; None where the weights are merged.

    Args:
        config: The model's Hugging Face configuration.
        wanted: ``EngineOptions.lora``; "adapter" is refused where vLLM cannot.
    """
    if adapter is None or wanted == "merge":
        return None
    reason = _explain_merging(config, adapter)
    if reason and wanted == "adapter":
        raise UserError(f"sampler.engine.lora is 'adapter', but {reason}. Use merge, or auto.")
    return None if reason else next(rank for rank in RANKS if rank >= adapter.rank)


def _explain_merging(config: Any, adapter: Adapter) -> str | None:
    """Why vLLM cannot apply an adapter itself; None where it can."""
    from vllm import ModelRegistry
    from vllm.model_executor.models import supports_lora
    from vllm.platforms import current_platform

    name = (config.architectures or ["an unnamed architecture"])[0]
    entry = ModelRegistry.models.get(name)
    if entry is None or not supports_lora(entry.load_model_cls()):
        return f"vLLM applies no adapters to {name}"
    if adapter.rank > RANKS[-1]:
        return f"its rank is {adapter.rank}, and vLLM takes at most {RANKS[-1]}"
    if others := sorted(set(adapter.targets) - TARGETS):
        return f"it adapts {', '.join(others)}, which vLLM may not"
    # on a CPU vLLM lacks the kernel that it builds for them
    if current_platform.is_cpu() and any(getattr(config.get_text_config(), name, None) for name in EXPERTS):
        return "on a CPU vLLM applies none to mixtures of experts"
    return None


def write_adapter(adapter: Adapter, folder: Path) -> Path:
    """Write the adapter as peft does, which is what vLLM reads. Goes through its weights: collective."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in adapter.weights}
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "use_rslora": adapter.rslora,
        "target_modules": list(adapter.targets),
        "bias": "none",
        "lora_dropout": 0.0,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
