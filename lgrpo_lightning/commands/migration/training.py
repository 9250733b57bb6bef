"""Trainer, optimizer, schedule, checkpoints, logger, validation, and what of the objective is not as there."""

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
ROUTER = (
    "the model's own coefficient, where it is a mixture of experts; here model.objective.router_aux_coef names it, "
    "and is 0."
)
QUANTILE = (
    "its quantile is that of an optimizer step here, before the rollout's first update; of a micro-batch as it is "
    "there."
)


def write_schedule(draft: Draft, batch: Batch, rows: int | None) -> None:
    """How long the run is, and its schedule, which has to know."""
    steps, epochs = draft.get("max_steps"), draft.get("num_train_epochs")
    total: int | None = steps
    if steps > 0:
        draft.put("trainer.max_steps", steps, "max_steps")
    else:
        whole = math.ceil(epochs)
        draft.carry("num_train_epochs", "trainer.max_epochs", whole, "" if whole == epochs else f"{epochs} there")
        total = None if rows is None else rows // batch.prompts * batch.steps * whole
    name = draft.get("lr_scheduler_type")
    if draft.get("lr_scheduler_kwargs"):
        draft.carry("lr_scheduler_kwargs", "model.schedule.kwargs")
    if name in ("reduce_lr_on_plateau", "greedy"):
        draft.remark("it needs a metric at every step, and lgrpo fit refuses it.", "lr_scheduler_type")
    elif steps <= 0 and total is not None:
        draft.put("model.schedule.total_steps", total, "of --rows")
    elif steps <= 0 and not str(name).startswith(("constant", "inverse")):
        draft.remark(
            f"model.schedule.total_steps: {name!r} has to know where it ends, and only the number of rows tells: say "
            "--rows N to this command, or set it or trainer.max_steps."
        )
    field = "warmup_ratio" if draft.get("warmup_ratio") else "warmup_steps"
    warmup = draft.get(field)
    if 0 < warmup < 1 and total is None:
        draft.remark("a share of all steps, whose number is not known; here it is in steps.", field)
    else:
        warmup_steps = math.ceil(warmup * total) if 0 < warmup < 1 and total else int(warmup)
        draft.carry(field, "model.schedule.warmup_steps", warmup_steps)


def write_optimizer(draft: Draft) -> None:
    """The keys ``model.optimizer``."""
    name = str(draft.get("optim"))
    if name not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        draft.remark(f"{name!r} is not known here ({known} are); name its class in model.optimizer.", "optim")
    draft.carry("optim", "model.optimizer.class_path", OPTIMIZERS.get(name, "torch.optim.AdamW"))
    if draft.get("weight_decay"):
        draft.remark("of every weight here; norms and biases have none there.", "weight_decay")
    betas = [draft.get("adam_beta1"), draft.get("adam_beta2")]
    if draft.is_given("adam_beta1") or draft.is_given("adam_beta2"):
        draft.put("model.optimizer.init_args.betas", betas, "adam_beta1, adam_beta2")
    if draft.is_given("adam_epsilon"):
        draft.carry("adam_epsilon", "model.optimizer.init_args.eps")
    draft.carry("max_grad_norm", "model.updates.gradient_clip_val", draft.get("max_grad_norm") or None)


def write_objective(draft: Draft) -> None:
    """What of ``model.objective`` has another meaning here."""
    if (share := draft.get("top_entropy_quantile")) != 1:
        zero = " It has to be above 0 here." if share == 0 else ""
        draft.remark(QUANTILE + zero, "top_entropy_quantile")
    if draft.get("router_aux_loss_coef") is None:
        draft.remark(ROUTER, "router_aux_loss_coef")
    else:
        draft.carry("router_aux_loss_coef", "model.objective.router_aux_coef")


def write_trainer(draft: Draft, batch: Batch, processes: int) -> None:
    """Folder, devices, logger, checkpoints."""
    draft.carry("output_dir", "trainer.default_root_dir", draft.get("output_dir") or "trainer_output")
    draft.carry("logging_steps", "trainer.log_every_n_steps", max(1, int(draft.get("logging_steps"))))
    for field in ("logging_steps", "save_steps"):
        if 0 < draft.get(field) < 1:
            draft.remark("a share of all steps there; here it counts rollouts: set it by hand.", field)
    if draft.get("use_cpu"):
        draft.put("trainer.accelerator", "cpu", "use_cpu")
    if processes > 1:
        draft.put("trainer.devices", processes, "--processes; prompts_per_step is that of all of them")
        draft.put("trainer.strategy", "ddp", "or fsdp2")
    _write_strategy(draft)
    _write_logger(draft)
    if (strategy := draft.get("save_strategy")) == "steps":
        every = batch.count_rollouts(draft.get("save_steps"))
        options = {"every_n_rollouts": every, "keep": draft.get("save_total_limit") or -1}
        callbacks = [{"class_path": "RolloutCheckpoint", "init_args": options}]
        draft.carry("save_steps", "trainer.callbacks", callbacks, "last.ckpt is always kept")
    elif strategy != "no":
        draft.remark("checkpoints are counted in rollouts: RolloutCheckpoint, BestCheckpoint.", "save_strategy")


def _write_strategy(draft: Draft) -> None:
    """``fsdp2`` for whatever shards; what it was configured by is told."""
    for field in ("deepspeed", "fsdp", "accelerate_config"):
        value = draft.get(field)
        if field == "accelerate_config" and not str(value).startswith(("zero", "fsdp")):
            if value not in (None, "single_gpu", "multi_gpu"):
                draft.remark("not read; where it shards, trainer.strategy is fsdp2.", field)
        elif value or field in draft.recipe.unread:
            draft.put("trainer.strategy", "fsdp2", field)
            draft.remark(SHARDED, field)


def _write_logger(draft: Draft) -> None:
    wanted = draft.get("report_to")
    if wanted in ("wandb", ["wandb"]):
        options: dict[str, Any] = {"project": draft.get("project"), "name": draft.get("run_name")}
        draft.put("trainer.logger.class_path", "lightning.pytorch.loggers.WandbLogger", "report_to")
        draft.put("trainer.logger.init_args", {k: v for k, v in options.items() if v is not None})
    elif wanted not in (None, [], "none", ["none"], "tensorboard", ["tensorboard"]):
        draft.remark("TensorBoard and metrics.csv here; name a logger of Lightning.", "report_to")


def write_validation(draft: Draft, batch: Batch, processes: int) -> None:
    """What is measured, and when; nothing where TRL evaluates nothing."""
    strategy = draft.get("eval_strategy")
    if strategy == "no":
        return
    size = draft.get("num_generations_eval") or draft.get("num_generations")
    if strategy == "steps":
        every = draft.get("eval_steps") or draft.get("logging_steps")
        draft.put("trainer.val_check_interval", batch.count_rollouts(every), "eval_steps, in rollouts")
    else:
        draft.put("trainer.check_val_every_n_epoch", 1, f"eval_strategy: {strategy}")
    draft.put("model.validation.k", size, "num_generations_eval or num_generations")
    draft.put("model.validation.greedy", False, "TRL samples to evaluate")
    draft.carry("eval_on_start", "model.validation.at_start")
    draft.put("model.validation.at_end", False)
    prompts = max(1, draft.get("per_device_eval_batch_size") * processes // size)
    draft.put("data.validation_batch_size", prompts, "per_device_eval_batch_size x processes / num_generations")
