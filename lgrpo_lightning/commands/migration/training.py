"""Trainer, optimizer, schedule, checkpoints, logger and validation."""

from __future__ import annotations

import math
from typing import Any

from lgrpo_lightning.commands.migration.batch import Batch
from lgrpo_lightning.commands.migration.draft import Draft

OPTIMIZERS = {
    "adamw_torch": "torch.optim.AdamW",
    "adamw_torch_fused": "torch.optim.AdamW",
    "adamw_8bit": "bitsandbytes.optim.AdamW8bit",
    "adamw_bnb_8bit": "bitsandbytes.optim.AdamW8bit",
    "paged_adamw_8bit": "bitsandbytes.optim.PagedAdamW8bit",
    "sgd": "torch.optim.SGD",
    "rmsprop": "torch.optim.RMSprop",
    "adagrad": "torch.optim.Adagrad",
}
SHARDED = (
    "fsdp2 shards parameters, gradients and optimizer states, as ZeRO-3 does; of its configuration nothing is read, "
    "and offloading has no match."
)


def write_length(draft: Draft, made: Batch, rows: int | None) -> None:
    """How long the run is, and its schedule, which has to know."""
    steps, epochs = draft.value("max_steps"), draft.value("num_train_epochs")
    total: int | None = None
    if steps > 0:
        total = steps
        draft.put("trainer.max_steps", steps, "max_steps")
    else:
        whole = math.ceil(epochs)
        said = "" if whole == epochs else f"{epochs} there"
        draft.carry("num_train_epochs", "trainer.max_epochs", whole, said)
        if rows is not None:
            total = rows // made.prompts * made.steps_per_rollout * whole
    _write_schedule(draft, total, steps <= 0)


def _write_schedule(draft: Draft, total: int | None, unknown: bool) -> None:
    name = draft.value("lr_scheduler_type")
    draft.carry("lr_scheduler_type", "model.schedule.name")
    if draft.value("lr_scheduler_kwargs"):
        draft.carry("lr_scheduler_kwargs", "model.schedule.kwargs")
    if name in ("reduce_lr_on_plateau", "greedy"):
        draft.remark("it needs a metric at every step, and lgrpo fit refuses it.", "lr_scheduler_type")
    elif unknown and total is not None:
        draft.put("model.schedule.total_steps", total, "of --rows")
    elif unknown and not str(name).startswith(("constant", "inverse")):
        draft.remark(
            f"model.schedule.total_steps: {name!r} has to know where it ends, and only the number of rows tells: say "
            "--rows N to this command, or set it or trainer.max_steps."
        )
    warmup = draft.value("warmup_ratio") or draft.value("warmup_steps")
    field = "warmup_ratio" if draft.value("warmup_ratio") else "warmup_steps"
    if 0 < warmup < 1:
        if total is None:
            draft.remark("a share of all steps, whose number is not known; here it is in steps.", field)
            return
        warmup = math.ceil(warmup * total)
    draft.carry(field, "model.schedule.warmup_steps", int(warmup))


def write_optimizer(draft: Draft) -> None:
    """The keys ``model.optimizer``."""
    name, key = str(draft.value("optim")), "model.optimizer.init_args"
    if name not in OPTIMIZERS:
        possible = ", ".join(OPTIMIZERS)
        draft.remark(
            f"{name!r} is not known here ({possible} are); name its class in model.optimizer.", "optim"
        )
    draft.carry("optim", "model.optimizer.class_path", OPTIMIZERS.get(name, "torch.optim.AdamW"))
    draft.carry("learning_rate", f"{key}.lr")
    draft.carry("weight_decay", f"{key}.weight_decay")
    if draft.value("weight_decay"):
        draft.remark("of every weight here; norms and biases have none there.", "weight_decay")
    betas = [draft.value("adam_beta1"), draft.value("adam_beta2")]
    if draft.written("adam_beta1") or draft.written("adam_beta2"):
        draft.put(f"{key}.betas", betas, "adam_beta1, adam_beta2")
    if draft.written("adam_epsilon"):
        draft.carry("adam_epsilon", f"{key}.eps")


def write_trainer(draft: Draft, made: Batch) -> None:
    """Seed, folder, logger, checkpoints."""
    draft.carry("seed", "seed_everything")
    draft.carry("data_seed", "data.seed")
    draft.carry("output_dir", "trainer.default_root_dir", draft.value("output_dir") or "trainer_output")
    draft.carry("logging_steps", "trainer.log_every_n_steps", max(1, int(draft.value("logging_steps"))))
    for field in ("logging_steps", "save_steps"):
        if 0 < draft.value(field) < 1:
            draft.remark("a share of all steps there; here it counts rollouts: set it by hand.", field)
    if draft.value("use_cpu"):
        draft.put("trainer.accelerator", "cpu", "use_cpu")
    _write_strategy(draft)
    _write_logger(draft)
    strategy, every = draft.value("save_strategy"), made.rollouts(draft.value("save_steps"))
    if strategy == "steps":
        options = {"every_n_rollouts": every, "keep": draft.value("save_total_limit") or -1}
        saved = [{"class_path": "RolloutCheckpoint", "init_args": options}]
        draft.carry("save_steps", "trainer.callbacks", saved, "last.ckpt is always kept")
    elif strategy != "no":
        draft.remark(
            "checkpoints are counted in rollouts: RolloutCheckpoint, BestCheckpoint.", "save_strategy"
        )


def _write_strategy(draft: Draft) -> None:
    """``fsdp2`` for whatever shards; what it was configured by is told."""
    for field in ("deepspeed", "fsdp", "accelerate_config"):
        value = draft.value(field)
        if field == "accelerate_config" and not str(value).startswith(("zero", "fsdp")):
            if value not in (None, "single_gpu", "multi_gpu"):
                draft.remark("not read; where it shards, trainer.strategy is fsdp2.", field)
        elif value or field in draft.recipe.unread:
            draft.put("trainer.strategy", "fsdp2", field)
            draft.remark(SHARDED, field)


def _write_logger(draft: Draft) -> None:
    wanted = draft.value("report_to")
    named = [wanted] if isinstance(wanted, str) else list(wanted or ())
    if named == ["wandb"]:
        options: dict[str, Any] = {"project": draft.value("project"), "name": draft.value("run_name")}
        draft.put("trainer.logger.class_path", "lightning.pytorch.loggers.WandbLogger", "report_to")
        draft.put("trainer.logger.init_args", {k: v for k, v in options.items() if v is not None})
    elif named not in (["none"], ["tensorboard"], []):
        draft.remark("TensorBoard and metrics.csv here; name a logger of Lightning.", "report_to")


def write_validation(draft: Draft, made: Batch, processes: int) -> None:
    """What is measured, and when; nothing where TRL evaluates nothing."""
    strategy = draft.value("eval_strategy")
    draft.asked.update(("eval_steps", "per_device_eval_batch_size", "eval_on_start", "num_generations_eval"))
    if strategy == "no":
        return
    size = draft.value("num_generations_eval") or draft.value("num_generations")
    if strategy == "steps":
        every = draft.value("eval_steps") or draft.value("logging_steps")
        draft.put("trainer.val_check_interval", made.rollouts(every), "eval_steps, in rollouts")
    else:
        draft.put("trainer.check_val_every_n_epoch", 1, f"eval_strategy: {strategy}")
    draft.put("model.validation.k", size, "num_generations_eval or num_generations")
    draft.put("model.validation.greedy", False, "TRL samples to evaluate")
    draft.carry("eval_on_start", "model.validation.at_start")
    draft.put("model.validation.at_end", False)
    prompts = max(1, draft.value("per_device_eval_batch_size") * processes // size)
    draft.put(
        "data.validation_batch_size", prompts, "per_device_eval_batch_size x processes / num_generations"
    )
