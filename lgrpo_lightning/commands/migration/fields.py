"""The options of TRL's GRPO: their defaults there, what becomes of those that no rule reads; defaults here."""

from __future__ import annotations

from typing import Any

VERSION = "1.16"
"""The TRL that the tables are of."""

# fmt: off
DEFAULTS: dict[str, Any] = {
    # GRPOConfig
    "model_init_kwargs": None, "trust_remote_code": False, "router_aux_loss_coef": None,
    "disable_dropout": False, "cast_lm_head_to_fp32": False, "remove_unused_columns": False,
    "num_generations": 8, "num_generations_eval": None, "max_completion_length": 512,
    "ds3_gather_for_generation": True, "shuffle_dataset": True, "pad_to_multiple_of": "auto",
    "generation_batch_size": None, "steps_per_generation": None, "temperature": 1.0, "top_p": 1.0, "top_k": 0,
    "min_p": None, "generation_kwargs": None, "chat_template_kwargs": None, "repetition_penalty": 1.0,
    "cache_implementation": None, "use_vllm": False, "vllm_mode": "colocate", "vllm_model_impl": "vllm",
    "vllm_enable_sleep_mode": False, "vllm_structured_outputs_regex": None, "vllm_server_base_url": None,
    "vllm_server_host": "0.0.0.0", "vllm_server_port": 8000, "vllm_server_timeout": 240.0,
    "vllm_group_port": 51216, "vllm_gpu_memory_utilization": 0.3, "vllm_max_model_length": None,
    "vllm_tensor_parallel_size": 1, "beta": 0.0, "num_iterations": 1, "epsilon": 0.2, "delta": None,
    "epsilon_high": None, "sapo_temperature_neg": 1.05, "sapo_temperature_pos": 1.0, "vespo_k_pos": 2.0,
    "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0, "importance_sampling_level": "token",
    "reward_weights": None, "multi_objective_aggregation": "sum_then_normalize", "scale_rewards": "group",
    "loss_type": "dapo", "mask_truncated_completions": False, "sync_ref_model": False,
    "ref_model_mixup_alpha": 0.6, "ref_model_sync_steps": 512, "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0, "use_adaptive_entropy": False, "entropy_coef_min": 0.0, "entropy_coef_max": 1.0,
    "entropy_coef_delta": 0.005, "entropy_target": 0.2, "max_tool_calling_iterations": None,
    "vllm_importance_sampling_correction": True, "vllm_importance_sampling_mode": "sequence_mask",
    "vllm_importance_sampling_clip_max": 3.0, "vllm_importance_sampling_clip_min": None,
    "off_policy_mask_threshold": None, "use_bias_correction_kl": True, "log_completions": False,
    "log_multimodal": True, "num_completions_to_print": None, "log_unique_prompts": False,
    "log_completions_hub_repo": None, "use_transformers_continuous_batching": False,
    "transformers_continuous_batching_config": None, "use_transformers_paged": False,
    "vllm_importance_sampling_cap": None,
    # TrainingArguments, as GRPOConfig has them
    "output_dir": None, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_steps": -1,
    "num_train_epochs": 3.0, "learning_rate": 1e-06, "optim": "adamw_torch_fused", "weight_decay": 0.0,
    "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-08, "optim_args": None, "max_grad_norm": 1.0,
    "lr_scheduler_type": "linear", "lr_scheduler_kwargs": None, "warmup_steps": 0, "seed": 42,
    "data_seed": None, "full_determinism": False, "bf16": None, "fp16": False, "tf32": None,
    "gradient_checkpointing": True, "gradient_checkpointing_kwargs": None, "torch_compile": False,
    "use_liger_kernel": False, "logging_steps": 10, "report_to": "none", "run_name": None,
    "project": "huggingface", "save_strategy": "steps", "save_steps": 500, "save_total_limit": None,
    "load_best_model_at_end": False, "metric_for_best_model": None, "eval_strategy": "no", "eval_steps": None,
    "per_device_eval_batch_size": 8, "eval_on_start": False, "resume_from_checkpoint": None, "use_cpu": False,
    "deepspeed": None, "fsdp": None, "ddp_timeout": 1800, "push_to_hub": False, "dataloader_num_workers": 0,
    # trl grpo
    "model_name_or_path": None, "model_revision": "main", "dtype": "float32", "attn_implementation": None,
    "use_peft": False, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "lora_target_modules": None,
    "lora_target_parameters": None, "lora_modules_to_save": None, "lora_task_type": "CAUSAL_LM",
    "use_rslora": False, "use_dora": False, "load_in_8bit": False, "load_in_4bit": False, "dataset_name": None,
    "dataset_config": None, "dataset_train_split": "train", "dataset_test_split": "test",
    "dataset_streaming": False, "datasets": None, "reward_funcs": None, "accelerate_config": None,
    "num_processes": None, "reward_model_name_or_path": None,
    # earlier versions
    "max_prompt_length": None, "warmup_ratio": 0.0, "torch_dtype": "float32", "use_liger_loss": False,
}
NOTES: dict[str, tuple[str, str]] = {
    "disable_dropout": ("model.policy.dropout", "The default here is 0. TRL keeps the model's own dropout"),
    "cast_lm_head_to_fp32": (
        "", "The log-softmax is always float32. The output head has the type `model.policy.dtype`",
    ),
    "remove_unused_columns": ("", "Rewards get every column"),
    "ds3_gather_for_generation": ("", "An option of DeepSpeed. `fsdp2` always gathers the weights for sampling"),
    "pad_to_multiple_of": ("", "Rows are padded to the longest row of a forward pass. Trees have no padding"),
    "log_completions": (
        "CompletionTable RolloutWriter LogCompletions",
        "A run always shows a few completions and writes all of them to `rollouts/`. `LogCompletions` shows them in "
        "loggers",
    ),
    "log_multimodal": ("", "Models are trained on text only"),
    "num_completions_to_print": ("CompletionTable.count", ""),
    "log_unique_prompts": ("", "`CompletionTable` shows completions of one prompt"),
    "log_completions_hub_repo": ("", "Nothing is uploaded"),
    "use_transformers_continuous_batching": ("TransformersSampler", "Completions that ended always leave the batches"),
    "transformers_continuous_batching_config": (
        "TransformersSampler.max_batch_tokens", "`max_batch_tokens` limits the memory of the sampler",
    ),
    "use_transformers_paged": ("TransformersSampler", "See `use_transformers_continuous_batching`"),
    "optim_args": ("model.optimizer", "The entries of its `init_args`"),
    "full_determinism": ("", "Runs are deterministic on one machine; on a GPU also set `policy.layout`"),
    "tf32": ("", "Call `torch.set_float32_matmul_precision` in Python"),
    "gradient_checkpointing_kwargs": ("", ""),
    "torch_compile": ("TransformersSampler.compile", "`compile` applies to sampling, not to the update"),
    "use_liger_kernel": ("", ""),
    "load_best_model_at_end": ("BestCheckpoint", ""),
    "metric_for_best_model": ("BestCheckpoint.monitor", "For example `val/avg@k`"),
    "resume_from_checkpoint": (
        "ckpt_path", "Checkpoints of TRL do not load. Their weights load with `model.policy.path`",
    ),
    "ddp_timeout": ("RankWatch.timeout_minutes", "TRL counts seconds, this library counts minutes"),
    "push_to_hub": ("", "`lgrpo export --push REPO` uploads the model after the run"),
    "dataloader_num_workers": ("", "Prompts are in memory"),
    "lora_task_type": ("", "Adapters are always of this type"),
    "dataset_streaming": ("PromptFile.streaming", ""),
    "num_processes": ("trainer.devices", "`lgrpo import-trl` reads this number from `--processes N`"),
    "use_liger_loss": ("", "Log-probs are always computed in chunks"),
    "repetition_penalty": ("", "The log-probs would differ from the policy's"),
    "vllm_structured_outputs_regex": ("", "The log-probs would differ from the policy's"),
    "vllm_group_port": ("", "The run chooses the port; `transfer` of `server` says how weights get there"),
    "entropy_coef_min": ("", "The lower bound is always 0"),
    "lora_target_parameters": ("", "An adapter applies to modules only"),
    "lora_modules_to_save": ("", "Only the adapter is trained"),
    "use_dora": ("", "Only plain LoRA is supported"),
    "load_in_8bit": ("model.policy.quantization", "`int8`"),
    "load_in_4bit": ("model.policy.quantization", "`nf4`"),
}
"""What it is here, with spaces between; what differs."""
OURS: dict[str, Any] = {
    "seed_everything": 0, "trainer.max_steps": -1, "trainer.precision": "32-true",
    "trainer.log_every_n_steps": 1, "model.reward_weights": None,
    "model.advantage_estimator.init_args.scale": "group", "model.group_size": 8, "model.policy.revision": None,
    "model.policy.dtype": "float32", "model.policy.attn_implementation": "sdpa",
    "model.policy.gradient_checkpointing": False, "model.policy.lora": None, "model.policy.lora.rank": 16,
    "model.policy.lora.alpha": 32, "model.policy.lora.dropout": 0.0, "model.policy.lora.targets": "all-linear",
    "model.policy.lora.rslora": False, "model.sampling.temperature": 1.0, "model.sampling.top_p": 1.0,
    "model.sampling.top_k": 0, "model.sampling.min_p": 0.0, "model.sampling.max_new_tokens": 256,
    "model.objective.kl_coef": 0.0, "model.objective.kl_unbiased": False,
    "model.objective.reference_sync_steps": None, "model.objective.reference_sync_mix": 0.6,
    "model.objective.entropy_coef": 0.0, "model.objective.entropy_target": None,
    "model.objective.entropy_coef_delta": 0.005, "model.objective.entropy_coef_max": 1.0,
    "model.objective.top_entropy": 1.0, "model.objective.off_policy_kl": None,
    "model.objective.router_aux_coef": 0.0, "model.objective.importance": "sequence_mask",
    "model.objective.importance_max": 3.0, "model.objective.importance_min": None,
    "model.updates.iterations": 1, "model.updates.mini_batches": 1, "model.updates.gradient_clip_val": 1.0,
    "model.updates.mask_truncated": False, "model.schedule.name": "constant_with_warmup",
    "model.schedule.warmup_steps": 0, "model.validation.k": 4, "model.validation.greedy": True,
    "model.validation.at_start": True, "model.validation.at_end": True, "data.shuffle": True,
    "data.seed": None, "data.chat": None, "data.system_prompt": None, "data.chat_template_kwargs": None,
    "data.prompts_per_step": 16, "data.validation_batch_size": 64,
}
"""Defaults of a configuration here: what equals them need not be written. A test compares them with the parser's."""
CARRIED: dict[str, dict[str, str]] = {
    "": {
        "seed": "seed_everything", "data_seed": "data.seed", "shuffle_dataset": "data.shuffle",
        "chat_template_kwargs": "data.chat_template_kwargs", "num_generations": "model.group_size",
        "gradient_checkpointing": "model.policy.gradient_checkpointing",
        "max_completion_length": "model.sampling.max_new_tokens", "beta": "model.objective.kl_coef",
        "entropy_coef": "model.objective.entropy_coef", "top_entropy_quantile": "model.objective.top_entropy",
        "off_policy_mask_threshold": "model.objective.off_policy_kl",
        "num_iterations": "model.updates.iterations", "mask_truncated_completions": "model.updates.mask_truncated",
        "lr_scheduler_type": "model.schedule.name", "learning_rate": "model.optimizer.init_args.lr",
        "weight_decay": "model.optimizer.init_args.weight_decay",
    },
    "beta": {"use_bias_correction_kl": "model.objective.kl_unbiased"},
    "beta sync_ref_model": {
        "ref_model_sync_steps": "model.objective.reference_sync_steps",
        "ref_model_mixup_alpha": "model.objective.reference_sync_mix",
    },
    "use_adaptive_entropy": {
        "entropy_target": "model.objective.entropy_target",
        "entropy_coef_delta": "model.objective.entropy_coef_delta",
        "entropy_coef_max": "model.objective.entropy_coef_max",
    },
    "use_peft": {
        "lora_r": "model.policy.lora.rank", "lora_alpha": "model.policy.lora.alpha",
        "lora_dropout": "model.policy.lora.dropout", "use_rslora": "model.policy.lora.rslora",
    },
    "use_vllm vllm_importance_sampling_correction": {
        "vllm_importance_sampling_mode": "model.objective.importance",
        "vllm_importance_sampling_clip_max": "model.objective.importance_max",
        "vllm_importance_sampling_clip_min": "model.objective.importance_min",
    },
}
"""Fields that have to be set → field → the key here that takes its value as it is."""
NUMBERS_OR_NULL = {
    "delta", "epsilon_high", "eval_steps", "max_grad_norm", "max_tool_calling_iterations", "min_p",
    "save_total_limit", "top_k", "vllm_importance_sampling_clip_max",
}
"""Fields that take a number or null."""
# fmt: on
