"""The model, its adapter and what draws completions → ``model.policy``, ``model.sampler``."""

from __future__ import annotations

from typing import Any

from lgrpo_lightning.commands.migration.draft import Draft

LORA = {"lora_r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "use_rslora": "rslora"}
INIT = {"revision": "model_revision", "attn_implementation": "attn_implementation"}
ENGINE = {
    "vllm_gpu_memory_utilization": "gpu_memory_utilization",
    "vllm_max_model_length": "max_model_len",
    "vllm_tensor_parallel_size": "tensor_parallel_size",
}
UNLIMITED = 100
"""Turns where TRL sets no limit; the length of the completion ends an episode before."""


def write_policy(draft: Draft) -> None:
    """The keys ``model.policy``, and ``trainer.precision``, which goes with the type of the weights."""
    path = draft.get("model_name_or_path")
    if path is None:
        unread = "model_name_or_path" in draft.recipe.unread
        said = "that is no literal" if unread else f"{draft.recipe.name} names none"
        draft.put("model.policy.path", None, f"fill in the model: {said}")
    else:
        draft.put("model.policy.path", path, "model_name_or_path")
    _write_precision(draft, _write_arguments(draft))
    for field in ("load_in_4bit", "load_in_8bit"):
        if draft.get(field):
            draft.remark("quantised models are refused here; use LoRA on the model as it is.", field)
    _write_lora(draft)


def _write_arguments(draft: Draft) -> str:
    """What the model is loaded with; the type of its weights, which is settled elsewhere."""
    more: dict[str, Any] = dict(draft.get("model_init_kwargs") or {})
    dtype = more.pop("dtype", more.pop("torch_dtype", draft.get("dtype")))
    if draft.is_given("torch_dtype"):
        dtype = draft.get("torch_dtype")
    for name, field in INIT.items():
        value = more.pop(name, draft.get(field))
        if value not in (None, "main"):
            draft.put(f"model.policy.{name}", value, field if draft.is_given(field) else "model_init_kwargs")
    if draft.get("trust_remote_code"):
        more["trust_remote_code"] = True
    if more:
        draft.put("model.policy.model_kwargs", more, "model_init_kwargs, trust_remote_code")
    return str(dtype)


def _write_precision(draft: Draft, dtype: str) -> None:
    """bf16 weights are trained as such; float32 ones under bf16 or fp16 where TRL does."""
    asked, half = draft.get("bf16"), draft.get("fp16")
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
    key = "model.policy.lora"
    draft.asked.update((*LORA, "lora_target_modules"))
    if "use_peft" in draft.recipe.unread:
        draft.put(key, "", "fill in the options of peft_config, which is not read")
    if not draft.get("use_peft"):
        return
    for field, name in LORA.items():
        draft.carry(field, f"{key}.{name}")
    targets = draft.get("lora_target_modules")
    if targets is None:
        said = "peft chooses by architecture there; here every linear layer but the head gets one."
        draft.remark(said, "lora_target_modules")
    every = targets in (None, ["all-linear"])
    draft.put(
        f"{key}.targets",
        "all-linear" if every else targets,
        "lora_target_modules" if targets else "see above",
    )
    for field in ("lora_target_parameters", "lora_modules_to_save", "use_dora"):
        if draft.get(field):
            draft.remark("no match: plain LoRA of modules, and the adapter alone.", field)


def write_sampler(draft: Draft) -> None:
    """The keys ``model.sampler``: who draws, within the environments where there are any."""
    key = "model.sampler"
    if draft.recipe.tools or draft.recipe.environments:
        _write_environments(draft, key)
        key = f"{key}.init_args.sampler"
    options = f"{key}.init_args"
    if draft.get("use_vllm"):
        draft.put(f"{key}.class_path", "VLLMSampler", "use_vllm")
        _write_vllm(draft, options)
        return
    cache = draft.get("cache_implementation")
    if cache == "static":
        draft.put(f"{key}.class_path", "TransformersSampler")
        draft.put(f"{options}.compile", True, "cache_implementation: static")
    elif cache is not None:
        draft.remark("TransformersSampler has its own cache.", "cache_implementation")


def _write_vllm(draft: Draft, options: str) -> None:
    """Engine and server."""
    url, host, port = (draft.get(f"vllm_server_{name}") for name in ("base_url", "host", "port"))
    if draft.choose("vllm_mode", ("colocate", "server")) == "server":
        url = (url or f"http://{host}:{port}").rstrip("/").replace("//0.0.0.0:", "//127.0.0.1:")
        draft.put(f"{options}.server.urls", [url])
        draft.carry("vllm_server_timeout", f"{options}.server.retry_seconds")
        draft.remark("start the server by `lgrpo serve --config THIS_FILE`, not by trl or vllm.", "vllm_mode")
    for field, name in ENGINE.items():
        if draft.is_given(field):
            draft.put(f"{options}.engine.{name}", draft.get(field), field)
    if draft.get("vllm_model_impl") != "vllm":
        extra = {"model_impl": draft.get("vllm_model_impl")}
        draft.put(f"{options}.engine.extra", extra, "vllm_model_impl")
    if draft.get("vllm_enable_sleep_mode"):
        draft.put(f"{options}.sleep_level", 2, "vllm_enable_sleep_mode")
    if draft.get("vllm_structured_outputs_regex"):
        draft.remark("no match.", "vllm_structured_outputs_regex")
    draft.asked.add("vllm_group_port")


def _write_environments(draft: Draft, key: str) -> None:
    """The keys of an ``EnvironmentSampler`` at ``key``."""
    recipe, options = draft.recipe, f"{key}.init_args"
    draft.put(f"{key}.class_path", "EnvironmentSampler", "tools, environment_factory")
    draft.remarks += [part.said for part in (*recipe.tools, *recipe.environments.values()) if part.said]
    if tools := [tool.path for tool in recipe.tools if tool.path]:
        draft.put(f"{options}.tools", tools, "tools")
    makers = {name: made.path for name, made in recipe.environments.items() if made.path}
    if makers:
        draft.put(f"{options}.environment", makers.get("", makers), "environment_factory")
    limit = draft.get("max_tool_calling_iterations")
    said = "max_tool_calling_iterations: turns of the assistant, one more"
    draft.put(f"{options}.max_turns", UNLIMITED if limit is None else limit + 1, said)
    if draft.recipe.get_value("chat_template_kwargs"):
        more = draft.recipe.get_value("chat_template_kwargs")
        draft.put(f"{options}.chat_template_kwargs", more, "chat_template_kwargs")
