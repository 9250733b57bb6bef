"""What each field becomes, by hand."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("text", "processes", "prompts", "mini", "iterations"),
    [
        ("beta: 0.0", 1, 1, 1, 1),  # 8 / 8
        ("gradient_accumulation_steps: 4", 1, 4, 1, 1),  # 8 x 4 / 8
        ("gradient_accumulation_steps: 4", 2, 8, 1, 1),
        ("num_generations: 4\nnum_iterations: 3", 1, 2, 1, 3),  # 8 / 4
        ("gradient_accumulation_steps: 2\nsteps_per_generation: 8", 1, 8, 4, 1),  # 8 x 8 / 8 in 8 / 2 steps
        ("generation_batch_size: 64", 1, 8, 8, 1),  # 64 / 8 steps of a batch
        ("gradient_accumulation_steps: 4\nsteps_per_generation: 1", 1, 4, 1, 1),  # four generations a step
        (
            "per_device_train_batch_size: 4\nsteps_per_generation: 8\nnum_generations: 16",
            1,
            2,
            2,
            1,
        ),  # 8 steps
    ],
)
def test_prompts_and_mini_batches(
    text: str, processes: int, prompts: int, mini: int, iterations: int, made: Any
) -> None:
    config, _ = made(text, processes=processes)
    updates = config["model"].get("updates", {})
    assert config["data"]["prompts_per_step"] == prompts
    assert updates.get("mini_batches", 1) == mini
    assert updates.get("iterations", 1) == iterations
    assert config["trainer"].get("devices", 1) == processes


@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        ("deepspeed: zero3.json", "fsdp2"),
        ("fsdp: full_shard", "fsdp2"),
        ("accelerate_config: zero2", "fsdp2"),
        ("accelerate_config: multi_gpu", "ddp"),
        ("beta: 0.0", "ddp"),
    ],
)
def test_what_shards_becomes_fsdp2_on_any_number_of_processes(text: str, strategy: str, made: Any) -> None:
    config, said = made(text, processes=8)
    assert config["trainer"]["strategy"] == strategy
    assert ("of its configuration nothing is read" in said) == (strategy == "fsdp2")


def test_what_is_not_as_in_trl_is_said(made: Any) -> None:
    few = "per_device_train_batch_size: 4\nsteps_per_generation: 8\nnum_generations: 16"
    assert "TRL makes 8 optimizer steps of a generation batch" in made(few)[1]
    assert "4 generation batches make one" in made("gradient_accumulation_steps: 4\nsteps_per_generation: 1")[1]


def test_defaults_of_trl_are_written(made: Any) -> None:
    config, text = made("max_steps: 10")
    assert config["seed_everything"] == 42
    assert config["trainer"]["precision"] == "bf16-mixed"
    assert config["model"]["sampling"] == {"max_new_tokens": 512}
    assert config["model"]["schedule"] == {"name": "linear"}
    assert config["model"]["advantage_estimator"] == {"class_path": "GRPO"}
    assert config["model"]["policy"] == {"path": None, "gradient_checkpointing": True}
    assert "max_new_tokens: 512  # max_completion_length: TRL's default" in text
    assert "LambdaGRPO" in text
    assert "objective" not in config["model"]


def test_the_end_of_a_schedule(made: Any) -> None:
    assert "--rows N to this command" in made("lr_scheduler_type: cosine")[1]
    text = "num_train_epochs: 2\nwarmup_ratio: 0.1\nnum_generations: 4\nnum_iterations: 2"
    config, said = made(text, rows=101)  # 50 rollouts of 2 prompts, twice updated, twice
    assert config["model"]["schedule"] == {"name": "linear", "total_steps": 200, "warmup_steps": 20}
    assert config["trainer"]["max_epochs"] == 2
    assert "--rows" not in said.replace("of --rows", "")


def test_the_arguments_of_a_schedule(made: Any) -> None:
    text = "max_steps: 9\nlr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-7}"
    schedule = {"name": "cosine_with_min_lr", "kwargs": {"min_lr": 1e-7}}
    assert made(text)[0]["model"]["schedule"] == schedule
    assert "needs a metric at every step" in made("lr_scheduler_type: greedy")[1]
    assert "--rows" not in made("lr_scheduler_type: inverse_sqrt")[1]


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("beta: 1e-3\nsync_ref_model: true", "objective",
         {"kl_coef": 1e-3, "kl_unbiased": True, "reference_sync_steps": 512}),
        ("use_adaptive_entropy: true\nentropy_coef: 0.01", "objective", {"entropy_coef": 0.01, "entropy_target": 0.2}),
        ("mask_truncated_completions: true\nmax_grad_norm: 0", "updates",
         {"mask_truncated": True, "gradient_clip_val": None}),
        ("scale_rewards: false", "advantage_estimator", {"class_path": "GRPO", "init_args": {"scale": "none"}}),
        ("multi_objective_aggregation: normalize_then_sum", "advantage_estimator", {"class_path": "GDPO"}),
        ("top_k: 20\nmin_p: 0.1", "sampling", {"top_k": 20, "min_p": 0.1, "max_new_tokens": 512}),
        ("generation_kwargs: {stop: x, top_p: 0.5}", "sampling", {"max_new_tokens": 512, "stop": ["x"], "top_p": 0.5}),
        ("dtype: bfloat16\ngradient_checkpointing: false\nmodel_init_kwargs: {a: 1}", "policy",
         {"path": None, "gradient_checkpointing": False, "model_kwargs": {"a": 1}}),
        ("use_vllm: true\nvllm_gpu_memory_utilization: 0.5\nvllm_enable_sleep_mode: true", "sampler",
         {"class_path": "VLLMSampler", "init_args": {"engine": {"gpu_memory_utilization": 0.5}, "sleep_level": 2}}),
        ("use_vllm: true\nvllm_mode: server\nvllm_server_base_url: http://a:1/", "sampler",
         {"class_path": "VLLMSampler", "init_args": {"server": {"urls": ["http://a:1"], "retry_seconds": 240.0}}}),
        ("use_vllm: true\nvllm_importance_sampling_correction: false", "objective", {"importance": "none"}),
        ("use_vllm: true\nvllm_importance_sampling_cap: 2.0", "objective", {"importance_max": 2.0}),
        ("use_vllm: true\nvllm_importance_sampling_clip_max: null", "objective", {"importance_max": None}),
        ("max_grad_norm: null", "updates", {"gradient_clip_val": None}),
        ("optim: sgd\nlearning_rate: 0.1\nweight_decay: 0.01", "optimizer",
         {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "weight_decay": 0.01}}),
        ("reward_funcs: [accuracy_reward, a.b, get_soft_overlong_punishment]\nreward_weights: [1, 2, 3]",
         "reward_weights", [1, 2]),
    ],
)  # fmt: skip
def test_a_part_of_the_model(text: str, key: str, value: Any, made: Any) -> None:
    assert made(text)[0]["model"][key] == value


def test_validation_where_trl_evaluates(made: Any) -> None:
    text = "dataset_name: d\neval_strategy: steps\neval_steps: 20\nnum_generations: 4\nnum_iterations: 2"
    config, _ = made(text)
    assert config["trainer"]["val_check_interval"] == 10
    assert config["model"]["validation"] == {"k": 4, "greedy": False, "at_start": False, "at_end": False}
    assert config["data"]["validation"]["init_args"] == {"path": "d", "split": "test"}
    assert "validation" not in made("dataset_name: d")[0]["data"]


def test_what_is_unknown_is_said_with_its_line(made: Any) -> None:
    _, text = made("beta: 0.1\nlerning_rate: 1\nrepetition_penalty: 1.1\nhub_model_id: x")
    assert "lerning_rate (run.yaml, line 2): not among the options" in text
    assert "Did you mean learning_rate?" in text
    assert "repetition_penalty (run.yaml, line 3): no match" in text
    assert "hub_model_id (run.yaml, line 4): not among" in text
    assert "vllm_mode (run.yaml, line 1): without effect" in made("vllm_mode: server")[1]
    assert "lora_r (run.yaml, line 1): without effect" in made("lora_r: 8")[1]
    assert "load_in_4bit" not in made("load_in_4bit: false")[1]  # as by default
