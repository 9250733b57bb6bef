"""The model, its adapter and what draws completions → ``model.policy``, ``model.sampler``."""

from __future__ import annotations

from typing import Any

from lgrpo_lightning.commands.migration.agents import write_environments
from lgrpo_lightning.commands.migration.draft import Draft

LORA = {
    "lora_r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target_modules": "targets",
    "use_rslora": "rslora",
}
NO_LORA = ("lora_target_parameters", "lora_modules_to_save", "use_dora")
INIT = {"revision": "model_revision", "attn_implementation": "attn_implementation"}
ENGINE = {
    "vllm_gpu_memory_utilization": "gpu_memory_utilization",
    "vllm_max_model_length": "max_model_len",
    "vllm_tensor_parallel_size": "tensor_parallel_size",
}


def write_policy(draft: Draft) -> None:
    """The keys ``model.policy``, and ``trainer.precision``, which goes with the type of the weights."""
    path = draft.value("model_name_or_path")
    if path is None:
        unread = "model_name_or_path" in draft.recipe.unread
        said = "that is no literal" if unread else f"{draft.recipe.name} names none"
        draft.put("model.policy.path", None, f"fill in the model: {said}")
    else:
        draft.put("model.policy.path", path, "model_name_or_path")
    _write_precision(draft, _write_arguments(draft))
    for field in ("load_in_4bit", "load_in_8bit"):
        if draft.value(field):
            draft.remark("quantised models are refused here; use LoRA on the model as it is.", field)
    draft.carry("gradient_checkpointing", "model.policy.gradient_checkpointing")
    _write_lora(draft)


def _write_arguments(draft: Draft) -> str:
    """What the model is loaded with; the type of its weights, which is settled elsewhere."""
    more: dict[str, Any] = dict(draft.value("model_init_kwargs") or {})
    dtype = more.pop("dtype", more.pop("torch_dtype", draft.value("dtype")))
    if draft.written("torch_dtype"):
        dtype = draft.value("torch_dtype")
    for name, field in INIT.items():
        value = more.pop(name, draft.value(field))
        if value not in (None, "main"):
            draft.put(f"model.policy.{name}", value, field if draft.written(field) else "model_init_kwargs")
    if draft.value("trust_remote_code"):
        more["trust_remote_code"] = True
    if more:
        draft.put("model.policy.model_kwargs", more, "model_init_kwargs, trust_remote_code")
    return str(dtype)


def _write_precision(draft: Draft, dtype: str) -> None:
    """bf16 weights are trained as such; float32 ones under bf16 or fp16 where TRL does."""
    asked, half = draft.value("bf16"), draft.value("fp16")
    mixed = not half if asked is None else asked
    if dtype == "bfloat16":
        draft.put("trainer.precision", "bf16-true", "dtype bfloat16: weights in bf16")
        return
    if dtype != "float32":
        draft.remark(f"the type of the weights is {dtype} there, float32 here.", "dtype")
    if half:
        draft.put("trainer.precision", "16-mixed", "fp16")
    else:
        draft.carry("bf16", "trainer.precision", "bf16-mixed" if mixed else "32-true")


def _write_lora(draft: Draft) -> None:
    """The keys ``model.policy.lora``."""
    if "use_peft" in draft.recipe.unread:
        draft.put("model.policy.lora", "", "fill in the options of peft_config, which is not read")
    if not draft.value("use_peft"):
        return
    for field, name in LORA.items():
        value = draft.value(field)
        if field != "lora_target_modules":
            draft.carry(field, f"model.policy.lora.{name}")
        elif value is None:
            said = "peft chooses by architecture there; here every linear layer but the head gets one."
            draft.remark(said, field)
            draft.put(f"model.policy.lora.{name}", "all-linear", "see above")
        else:
            alone = value[0] if isinstance(value, list) and len(value) == 1 else value
            draft.put(f"model.policy.lora.{name}", "all-linear" if alone == "all-linear" else value, field)
    for field in NO_LORA:
        if draft.value(field):
            draft.remark("no match: plain LoRA of modules, and the adapter alone.", field)


def write_sampler(draft: Draft) -> None:
    """The keys ``model.sampler``: who draws, within the environments where there are any."""
    key = "model.sampler"
    if draft.recipe.tools or draft.recipe.environments:
        write_environments(draft, key)
        key = f"{key}.init_args.sampler"
    if not draft.value("use_vllm"):
        _write_transformers(draft, key)
        return
    draft.put(f"{key}.class_path", "VLLMSampler", "use_vllm")
    mode, options = draft.value("vllm_mode"), f"{key}.init_args"
    if mode not in ("colocate", "server"):
        raise draft.recipe.refuse("vllm_mode", "colocate or server")
    if mode == "server":
        _write_server(draft, f"{options}.server")
    for field, name in ENGINE.items():
        if draft.written(field):
            draft.put(f"{options}.engine.{name}", draft.value(field), field)
    if draft.value("vllm_model_impl") != "vllm":
        extra = {"model_impl": draft.value("vllm_model_impl")}
        draft.put(f"{options}.engine.extra", extra, "vllm_model_impl")
    if draft.value("vllm_enable_sleep_mode"):
        draft.put(f"{options}.sleep_level", 2, "vllm_enable_sleep_mode")
    if draft.value("vllm_structured_outputs_regex"):
        draft.remark("no match.", "vllm_structured_outputs_regex")
    draft.asked.update(("vllm_server_host", "vllm_server_port", "vllm_server_base_url", "vllm_group_port"))


def _write_server(draft: Draft, key: str) -> None:
    """Where the server is."""
    url = draft.value("vllm_server_base_url") or (
        f"http://{draft.value('vllm_server_host')}:{draft.value('vllm_server_port')}"
    )
    draft.put(f"{key}.urls", [url.rstrip("/").replace("//0.0.0.0:", "//127.0.0.1:")])
    draft.carry("vllm_server_timeout", f"{key}.retry_seconds")
    draft.remark("start the server by `lgrpo serve --config THIS_FILE`, not by trl or vllm.", "vllm_mode")


def _write_transformers(draft: Draft, key: str) -> None:
    cache = draft.value("cache_implementation")
    if cache == "static":
        draft.put(f"{key}.class_path", "TransformersSampler")
        draft.put(f"{key}.init_args.compile", True, "cache_implementation: static")
    elif cache is not None:
        draft.remark("TransformersSampler has its own cache.", "cache_implementation")
