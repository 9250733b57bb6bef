"""The model, its adapter, and how completions are drawn → ``model.policy``, ``model.sampler``, ``model.sampling``."""

from __future__ import annotations

from typing import Any

from lgrpo_lightning.commands.migration.draft import Draft

ENGINE = {
    "vllm_gpu_memory_utilization": "gpu_memory_utilization",
    "vllm_max_model_length": "max_model_len",
    "vllm_tensor_parallel_size": "tensor_parallel_size",
}
SAMPLING = ("temperature", "top_p", "top_k", "min_p")
GENERATION = {
    **{name: f"model.sampling.{name}" for name in SAMPLING},
    **dict.fromkeys(("max_new_tokens", "max_tokens"), "model.sampling.max_new_tokens"),
    **dict.fromkeys(("stop", "stop_strings"), "model.sampling.stop"),
    "suppress_tokens": "model.policy.suppress_tokens",
}
"""Entry of ``generation_kwargs`` → key."""
UNLIMITED = 100
"""Turns where TRL sets no limit; the length of the completion ends an episode before."""


def write_policy(draft: Draft) -> None:
    """The keys ``model.policy``, and ``trainer.precision``, which goes with the type of the weights."""
    path, said = draft.get("model_name_or_path"), "model_name_or_path"
    if path is None:
        unread = "model_name_or_path" in draft.recipe.unread
        said = f"fill in the model: {'that is no literal' if unread else f'{draft.recipe.name} names none'}"
    draft.put("model.policy.path", path, said)
    more: dict[str, Any] = dict(draft.get("model_init_kwargs") or {})
    dtype = more.pop("dtype", more.pop("torch_dtype", draft.get("dtype")))
    if draft.is_given("torch_dtype"):
        dtype = draft.get("torch_dtype")
    _write_precision(draft, str(dtype))
    for name, field in (("revision", "model_revision"), ("attn_implementation", "attn_implementation")):
        value = more.pop(name, draft.get(field))
        if value not in (None, "main"):
            draft.put(f"model.policy.{name}", value, field if draft.is_given(field) else "model_init_kwargs")
    if draft.get("trust_remote_code"):
        more["trust_remote_code"] = True
    if more:
        draft.put("model.policy.model_kwargs", more, "model_init_kwargs, trust_remote_code")
    _write_lora(draft)


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
    """The keys ``model.policy.lora`` whose values differ from TRL's."""
    if "use_peft" in draft.recipe.unread:
        draft.put("model.policy.lora", "", "fill in the options of peft_config, which is not read")
    if not draft.get("use_peft"):
        return
    targets, said = draft.get("lora_target_modules"), "lora_target_modules"
    if targets is None:
        draft.remark("peft chooses by architecture there; here every linear layer but the head gets one.", said)
        said = "see above"
    draft.put("model.policy.lora.targets", "all-linear" if targets in (None, ["all-linear"]) else targets, said)


def write_sampling(draft: Draft) -> None:
    """The keys ``model.sampling`` and ``model.policy.suppress_tokens``."""
    for field in SAMPLING:
        draft.carry(field, f"model.sampling.{field}", max(0, draft.get(field) or 0))
    others = list[str]()
    for name, value in (draft.get("generation_kwargs") or {}).items():
        if name in GENERATION:
            given = [value] if isinstance(value, str) else value
            draft.put(GENERATION[name], given, f"generation_kwargs: {name}")
        else:
            others.append(repr(name))
    if others:
        draft.remark(f"no match for {', '.join(others)}.", "generation_kwargs")


def write_sampler(draft: Draft) -> None:
    """The keys ``model.sampler``: who draws, within the environments where there are any."""
    key = "model.sampler"
    if draft.recipe.tools or draft.recipe.environments:
        _write_environments(draft)
        key = "model.sampler.init_args.sampler"
    cache = draft.get("cache_implementation")
    if draft.get("use_vllm"):
        draft.put(f"{key}.class_path", "VLLMSampler", "use_vllm")
        _write_vllm(draft, f"{key}.init_args")
    elif cache == "static":
        draft.put(f"{key}.class_path", "TransformersSampler")
        draft.put(f"{key}.init_args.compile", True, "cache_implementation: static")
    elif cache is not None:
        draft.remark("TransformersSampler has its own cache.", "cache_implementation")


def _write_vllm(draft: Draft, options: str) -> None:
    """Engine and server, and the correction for its log-probs."""
    if draft.choose("vllm_mode", ("colocate", "server")) == "server":
        url, host, port = (draft.get(f"vllm_server_{name}") for name in ("base_url", "host", "port"))
        url = (url or f"http://{host}:{port}").rstrip("/").replace("//0.0.0.0:", "//127.0.0.1:")
        draft.put(f"{options}.server.urls", [url])
        draft.carry("vllm_server_timeout", f"{options}.server.retry_seconds")
        draft.remark("start the server by `lgrpo serve --config THIS_FILE`, not by trl or vllm.", "vllm_mode")
    for field, name in ENGINE.items():
        if draft.is_given(field):
            draft.put(f"{options}.engine.{name}", draft.get(field), field)
    if (library := draft.get("vllm_model_impl")) != "vllm":
        draft.put(f"{options}.engine.extra", {"model_impl": library}, "vllm_model_impl")
    if draft.get("vllm_enable_sleep_mode"):
        draft.put(f"{options}.sleep_level", 2, "vllm_enable_sleep_mode")
    correction, cap = "vllm_importance_sampling_correction", "vllm_importance_sampling_cap"
    if not draft.get(correction):
        draft.carry(correction, "model.objective.importance", "none")
        return
    if draft.get(cap) is not None:
        draft.carry(cap, "model.objective.importance_max")
    if draft.get("top_p") != 1 or draft.get("top_k") or draft.get("min_p"):
        draft.remark("not applied here where top_p, top_k or min_p truncate.", correction)


def _write_environments(draft: Draft) -> None:
    """The keys of an ``EnvironmentSampler``."""
    recipe, options = draft.recipe, "model.sampler.init_args"
    draft.put("model.sampler.class_path", "EnvironmentSampler", "tools, environment_factory")
    draft.remarks += [part.said for part in (*recipe.tools, *recipe.environments.values()) if part.said]
    if tools := [tool.path for tool in recipe.tools if tool.path]:
        draft.put(f"{options}.tools", tools, "tools")
    if makers := {name: made.path for name, made in recipe.environments.items() if made.path}:
        draft.put(f"{options}.environment", makers.get("", makers), "environment_factory")
    limit = draft.get("max_tool_calling_iterations")
    said = "max_tool_calling_iterations: turns of the assistant, one more"
    draft.put(f"{options}.max_turns", UNLIMITED if limit is None else limit + 1, said)
    if more := draft.get("chat_template_kwargs"):
        draft.put(f"{options}.chat_template_kwargs", more, "chat_template_kwargs")
