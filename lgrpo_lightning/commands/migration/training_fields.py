"""Fields of ``TrainingArguments`` that runs of TRL set, with ``GRPOConfig``'s defaults; options of ``trl grpo``."""

from __future__ import annotations

from lgrpo_lightning.commands.migration.field import Row, fields_of

# fmt: off
TRAINING_ROWS: tuple[Row, ...] = (
    ("output_dir", None, "trainer.default_root_dir", "`trainer_output` where it is null"),
    ("per_device_train_batch_size", 8, "data.prompts_per_step model.policy.micro_batch_tokens",
     "memory is limited in tokens here, and by itself"),
    ("gradient_accumulation_steps", 1, "data.prompts_per_step", "micro-batches are made inside each optimizer step"),
    ("max_steps", -1, "trainer.max_steps", "optimizer steps, here as there"),
    ("num_train_epochs", 3.0, "trainer.max_epochs", "whole ones"),
    ("learning_rate", 1e-6, "model.optimizer", "`lr` of its class"),
    ("optim", "adamw_torch_fused", "model.optimizer", "any class"),
    ("weight_decay", 0.0, "model.optimizer", "of every weight here, of no norm and no bias there"),
    ("adam_beta1", 0.9, "model.optimizer", "in `betas`"),
    ("adam_beta2", 0.999, "model.optimizer", "in `betas`"),
    ("adam_epsilon", 1e-8, "model.optimizer", "`eps`"),
    ("optim_args", None, "model.optimizer", "`init_args` of its class"),
    ("max_grad_norm", 1.0, "model.updates.gradient_clip_val", "0 there is null here"),
    ("lr_scheduler_type", "linear", "model.schedule.name", "`constant_with_warmup` by default here"),
    ("lr_scheduler_kwargs", None, "model.schedule.kwargs", ""),
    ("warmup_steps", 0, "model.schedule.warmup_steps", "below 1 there, a share of all steps"),
    ("seed", 42, "seed_everything", "0 by default here"),
    ("data_seed", None, "data.seed", ""),
    ("full_determinism", False, "", "runs are deterministic on one machine"),
    ("bf16", None, "trainer.precision", "`bf16-mixed`; null is true there unless `fp16` is"),
    ("fp16", False, "trainer.precision", "`16-mixed`"),
    ("tf32", None, "", "`torch.set_float32_matmul_precision` in Python"),
    ("gradient_checkpointing", True, "model.policy.gradient_checkpointing", "false by default here"),
    ("gradient_checkpointing_kwargs", None, "", ""),
    ("torch_compile", False, "TransformersSampler.compile", "of decoding; the update is not compiled"),
    ("use_liger_kernel", False, "", ""),
    ("logging_steps", 10, "trainer.log_every_n_steps", "1 by default here"),
    ("report_to", "none", "trainer.logger", "`metrics.csv` is always written"),
    ("run_name", None, "trainer.logger", "`name` of the logger"),
    ("project", "huggingface", "trainer.logger", "`project` of the logger"),
    ("save_strategy", "steps", "RolloutCheckpoint", "`last.ckpt` is always kept"),
    ("save_steps", 500, "RolloutCheckpoint.every_n_rollouts", "optimizer steps there, rollouts here"),
    ("save_total_limit", None, "RolloutCheckpoint.keep", "null there is -1 here"),
    ("load_best_model_at_end", False, "BestCheckpoint", ""),
    ("metric_for_best_model", None, "BestCheckpoint.monitor", "such as `val/avg@k`"),
    ("eval_strategy", "no", "data.validation", "no validation prompts: no validation"),
    ("eval_steps", None, "trainer.val_check_interval", "optimizer steps there, rollouts here"),
    ("per_device_eval_batch_size", 8, "data.validation_batch_size", "completions of a process there, prompts here"),
    ("eval_on_start", False, "model.validation.at_start", "true by default here"),
    ("resume_from_checkpoint", None, "ckpt_path", "checkpoints of TRL do not load here; their weights do, as a model"),
    ("use_cpu", False, "trainer.accelerator", "`cpu`"),
    ("deepspeed", None, "trainer.strategy", "`fsdp2`, which shards as ZeRO-3 does; of its file nothing is read"),
    ("fsdp", None, "trainer.strategy", "`fsdp2`, which shards as ZeRO-3 does; of its file nothing is read"),
    ("ddp_timeout", 1800, "RankWatch.timeout_minutes", "seconds there"),
    ("push_to_hub", False, "", "`lgrpo export` writes the folder to upload"),
    ("dataloader_num_workers", 0, "", "prompts are in memory"),
)

SCRIPT_ROWS: tuple[Row, ...] = (
    ("model_name_or_path", None, "model.policy.path", "`model` of `GRPOTrainer`"),
    ("model_revision", "main", "model.policy.revision", "null by default here, which is the same"),
    ("dtype", "float32", "model.policy.dtype trainer.precision",
     "`bfloat16` is `precision: bf16-true`; weights stay float32 under `bf16-mixed` here"),
    ("attn_implementation", None, "model.policy.attn_implementation", "`sdpa` by default here"),
    ("use_peft", False, "model.policy.lora", "false: null"),
    ("lora_r", 16, "model.policy.lora.rank", ""),
    ("lora_alpha", 32, "model.policy.lora.alpha", ""),
    ("lora_dropout", 0.05, "model.policy.lora.dropout", "0 by default here"),
    ("lora_target_modules", None, "model.policy.lora.targets",
     "null there is what peft chooses by architecture; here `all-linear`"),
    ("lora_target_parameters", None, "", "modules only"),
    ("lora_modules_to_save", None, "", "the adapter alone is trained"),
    ("lora_task_type", "CAUSAL_LM", "", "always"),
    ("use_rslora", False, "model.policy.lora.rslora", ""),
    ("use_dora", False, "", "plain LoRA only"),
    ("load_in_8bit", False, "", "log-probs of quantised models are too far from a sampler's"),
    ("load_in_4bit", False, "", "log-probs of quantised models are too far from a sampler's"),
    ("dataset_name", None, "PromptFile.path", "`train_dataset` of `GRPOTrainer`"),
    ("dataset_config", None, "PromptFile.subset", ""),
    ("dataset_train_split", "train", "PromptFile.split", ""),
    ("dataset_test_split", "test", "PromptFile.split", "of `data.validation`"),
    ("dataset_streaming", False, "PromptFile.streaming", ""),
    ("datasets", None, "PromptFile", "one set: a file, a folder, a pattern or a hub data set"),
    ("reward_funcs", None, "RewardFunction.function", "an import path; TRL's own are in `trl.rewards`"),
    ("accelerate_config", None, "trainer.strategy", "`fsdp2` for `zero1`, `zero2`, `zero3`, `fsdp1` and `fsdp2`"),
    ("num_processes", None, "trainer.devices", "said to `lgrpo import-trl` by `--processes N`"),
    ("reward_model_name_or_path", None, "model.reward_model", "no such component here: write one, or a function"),
)

OLDER_ROWS: tuple[Row, ...] = (
    ("max_prompt_length", None, "data.max_prompt_length",
     "prompts were cut there; here longer ones are an error, or left out"),
    ("warmup_ratio", 0.0, "model.schedule.warmup_steps", "in steps"),
    ("torch_dtype", "float32", "model.policy.dtype", "newer name: `dtype`"),
    ("use_liger_loss", False, "", "log-probs are computed in chunks in any case"),
)
# fmt: on

TRAINING, SCRIPT, OLDER = map(fields_of, (TRAINING_ROWS, SCRIPT_ROWS, OLDER_ROWS))
"""By name; ``OLDER`` are those of earlier versions of TRL."""
