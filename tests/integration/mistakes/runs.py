"""Devices, precision and callbacks that do not fit the run."""

from __future__ import annotations

from typing import Any

from tests.integration.mistakes.case import BadInput, component


def callback(name: str, **init_args: Any) -> dict[str, Any]:
    """``trainer.callbacks``: one of this library."""
    return {"trainer.callbacks": [component(name, **init_args)]}


def fsdp2(**init_args: Any) -> dict[str, Any]:
    """``trainer.strategy``: FSDP2 with options."""
    return {"trainer.strategy": component("FSDP2Strategy", **init_args)}


RUNS = {
    "logger without its package": BadInput(
        ours=False,
        says=("run.yaml, line", "trainer.logger: Requirement 'wandb", "not met"),
        did="`trainer.logger: WandbLogger` without wandb",
        config={"trainer.logger": component("WandbLogger")},
    ),
    "seed below 0": BadInput(
        says=("run.yaml, line", "seed_everything is -1; it must be from 0 to"),
        did="`seed_everything: -1`",
        config={"seed_everything": -1},
    ),
    "no validation interval": BadInput(
        says=("trainer.val_check_interval is 0; it must be above 0", "limit_val_batches: 0"),
        did="`trainer.val_check_interval: 0`",
        config={"trainer.val_check_interval": 0},
    ),
    "16-mixed on a CPU": BadInput(
        says=("trainer.precision is '16-mixed'", "needs a GPU", "bf16-mixed"),
        did="`trainer.precision: 16-mixed` on a CPU",
        config={"trainer.precision": "16-mixed"},
    ),
    "16-true": BadInput(
        says=("trainer.precision is '16-true'", "16-mixed or bf16-true"),
        did="`trainer.precision: 16-true`",
        config={"trainer.precision": "16-true"},
    ),
    "64-true": BadInput(
        says=("trainer.precision is '64-true'", "not supported", "bf16-mixed"),
        did="`trainer.precision: 64-true`",
        config={"trainer.precision": "64-true"},
    ),
    "weights in float16": BadInput(
        says=("policy.dtype is 'float16'", "vanish", "float32"),
        did="`model.policy.dtype: float16`",
        config={"model.policy.dtype": "float16"},
    ),
    "mixed precision on bf16 weights": BadInput(
        says=("policy.dtype is 'bfloat16'", "'bf16-mixed'", "bf16-true"),
        did="`trainer.precision: bf16-mixed` with `model.policy.dtype: bfloat16`",
        config={"trainer.precision": "bf16-mixed", "model.policy.dtype": "bfloat16"},
    ),
    "tensor parallel size": BadInput(
        says=("tensor_parallel_size is 3", "2 devices", "Possible are 1, 2"),
        did="`tensor_parallel_size: 3` of `FSDP2Strategy` with `trainer.devices: 2`",
        config={"trainer.devices": 2, **fsdp2(tensor_parallel_size=3)},
    ),
    "time-out of fsdp2": BadInput(
        says=("timeout_seconds is 0", "above 0"),
        did="`timeout_seconds: 0` of `FSDP2Strategy`",
        config=fsdp2(timeout_seconds=0),
    ),
    "on_nonfinite": BadInput(
        says=("on_nonfinite is 'ignore'", "'stop', 'skip'"),
        did="`model.updates.on_nonfinite: ignore`",
        config={"model.updates.on_nonfinite": "ignore"},
    ),
    "best of nothing": BadInput(
        says=("BestCheckpoint monitors 'val/avg@k'", "trainer.limit_val_batches is 0", "RolloutCheckpoint"),
        did="`BestCheckpoint` with `trainer.limit_val_batches: 0`",
        config=callback("BestCheckpoint"),
    ),
    "best is no file name": BadInput(
        says=("filename is 'last'", "not 'last'"),
        did="`BestCheckpoint(filename: last)`",
        config=callback("BestCheckpoint", filename="last"),
    ),
    "no interval": BadInput(
        says=("RolloutCheckpoint: every_n_rollouts is 0", "at least 1"),
        did="`RolloutCheckpoint(every_n_rollouts: 0)`",
        config=callback("RolloutCheckpoint", every_n_rollouts=0),
    ),
    "alarm at once": BadInput(
        says=("Alarms: patience is 0", "at least 1"),
        did="`Alarms(patience: 0)`",
        config=callback("Alarms", patience=0),
    ),
    "watch without time": BadInput(
        says=("RankWatch: timeout_minutes is 0", "above 0"),
        did="`RankWatch(timeout_minutes: 0)`",
        config=callback("RankWatch", timeout_minutes=0),
    ),
    "a judge without time": BadInput(
        says=("timeout is 0", "seconds above 0"),
        did="`timeout: 0` of `RewardFunction`",
        config={"model.reward_model": component("RewardFunction", function="my_rewards.brevity", timeout=0)},
    ),
    "unknown callback": BadInput(
        says=("trainer.callbacks is 'BestChekpoint'", "Did you mean 'BestCheckpoint'"),
        did="`--trainer.callbacks=BestChekpoint`",
        flags=("--trainer.callbacks=BestChekpoint",),
    ),
    "unknown precision": BadInput(
        says=("trainer.precision is 'fp16'", "'32-true', 'bf16-mixed', 'bf16-true', '16-mixed'"),
        did="`trainer.precision: fp16`",
        config={"trainer.precision": "fp16"},
    ),
    "the best checkpoint": BadInput(
        says=("--ckpt_path best", "name the file", "run/checkpoints holds no checkpoints"),
        did="`--ckpt_path=best`",
        flags=("--ckpt_path=best",),
    ),
}
