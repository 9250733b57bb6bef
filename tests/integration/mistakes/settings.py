"""Settings that do not fit together, or not this machine."""

from __future__ import annotations

from unittest import mock

from tests.integration.mistakes.case import BadInput

SETTINGS = {
    "λ weights beside a loss of sequences": BadInput(
        says=("model.loss is GSPO", "LambdaGRPO", "init_args.token: true", "lambda_power: 0"),
        did="`model.loss: GSPO` with λ weights",
        config={"model.loss": "GSPO", "model.advantage_estimator": "LambdaGRPO"},
    ),
    "reference that follows nothing": BadInput(
        says=("objective.reference_sync_steps", "objective.kl_coef above 0"),
        did="`model.objective: {reference_sync_steps: 100}` without anything that reads a reference",
        config={"model.objective": {"reference_sync_steps": 100}},
    ),
    "KL in the reward": BadInput(
        says=("objective.kl_place is 'reward'", "objective.kl_estimator: k1"),
        did="`model.objective: {kl_coef: 0.1, kl_place: reward}`, where k3 makes no sense",
        config={"model.objective": {"kl_coef": 0.1, "kl_place": "reward"}},
    ),
    "no mixture of experts": BadInput(
        says=("objective.router_aux_coef", "LlamaForCausalLM has no load-balancing loss"),
        did="`model.objective: {router_aux_coef: 0.01}` of a model without experts",
        config={"model.objective": {"router_aux_coef": 0.01}},
    ),
    "ratio bound": BadInput(
        says=("CISPO: ratio_max is 0", "above 0"),
        did="`model.loss: CISPO` with `ratio_max: 0`",
        config={"model.loss": {"class_path": "CISPO", "init_args": {"ratio_max": 0.0}}},
    ),
    "group of one": BadInput(
        says=("model.group_size is 1", "at least 2"),
        did="`model.group_size: 1`",
        config={"model.group_size": 1},
    ),
    "temperature 0": BadInput(
        says=("sampling.temperature is 0", "above 0", "validation.greedy"),
        did="`model.sampling.temperature: 0`",
        config={"model.sampling.temperature": 0.0},
    ),
    "top_p": BadInput(
        says=("sampling.top_p is 90", "at most 1"),
        did="`model.sampling.top_p: 90`",
        config={"model.sampling.top_p": 90.0},
    ),
    "stop as text": BadInput(
        says=("model.sampling.stop is 'abc'", "it must be list"),
        did="`model.sampling.stop: abc`",
        config={"model.sampling.stop": "abc"},
    ),
    "context": BadInput(
        says=("sampling.max_new_tokens is 4096", "context is 256", "less than 256"),
        did="`model.sampling.max_new_tokens: 4096`",
        config={"model.sampling.max_new_tokens": 4096},
    ),
    "mini-batches": BadInput(
        says=("data.prompts_per_step is 4", "3 mini-batches", "Use 3 or 6"),
        did="`data.prompts_per_step: 4` with `model.updates.mini_batches: 3`",
        config={"data.prompts_per_step": 4, "model.updates.mini_batches": 3},
    ),
    "reward weights": BadInput(
        says=("reward_weights are 2", "ExactMatch", "one weight per model"),
        did="two `reward_weights` for one reward model",
        config={"model.reward_weights": [1.0, 0.5]},
    ),
    "endless schedule": BadInput(
        says=("schedule.name 'cosine'", "trainer.max_steps"),
        did="`model.schedule.name: cosine` in a run without an end",
        config={"model.schedule.name": "cosine", "trainer.max_steps": None},
    ),
    "unknown schedule": BadInput(
        ours=False,
        says=("schedule.name is 'cosin'", "linear, cosine"),
        did="`model.schedule.name: cosin`",
        config={"model.schedule.name": "cosin"},
    ),
    "gradient clipping": BadInput(
        says=("trainer.gradient_clip_val", "model.updates.gradient_clip_val"),
        did="`trainer.gradient_clip_val: 1.0`",
        config={"trainer.gradient_clip_val": 1.0},
    ),
    "accumulation": BadInput(
        says=("trainer.accumulate_grad_batches", "model.policy.micro_batch_tokens"),
        did="`trainer.accumulate_grad_batches: 4`",
        config={"trainer.accumulate_grad_batches": 4},
    ),
    "fsdp": BadInput(
        says=("trainer.strategy is 'fsdp'", "not supported", "ddp"),
        did="`trainer.strategy: fsdp`",
        config={"trainer.strategy": "fsdp"},
    ),
    "deepspeed": BadInput(
        says=("trainer.strategy is 'deepspeed'", "not supported", "ddp"),
        did="`trainer.strategy: deepspeed`",
        config={"trainer.strategy": "deepspeed"},
    ),
    "unknown strategy": BadInput(
        says=("trainer.strategy is 'dpp'", "does not exist", "ddp"),
        did="`trainer.strategy: dpp`",
        config={"trainer.strategy": "dpp"},
    ),
    "gpu": BadInput(
        says=("trainer.accelerator is 'gpu'", "no GPU", "cpu"),
        did="`trainer.accelerator: gpu` on a machine without one",
        config={"trainer.accelerator": "gpu"},
        during=lambda: mock.patch("torch.cuda.is_available", return_value=False),
    ),
    "folder": BadInput(
        says=("trainer.default_root_dir is 'notes.txt/run'", "Not a directory"),
        did="`trainer.default_root_dir` below a file",
        config={"trainer.default_root_dir": "notes.txt/run"},
        files={"notes.txt": ""},
    ),
    "checkpoint": BadInput(
        says=("--ckpt_path", "checkpoints/lost.ckpt", "run/checkpoints holds no checkpoints"),
        did="`--ckpt_path=checkpoints/lost.ckpt`",
        flags=("--ckpt_path=checkpoints/lost.ckpt",),
    ),
}
