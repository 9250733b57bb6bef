"""Settings that cannot work are refused before the first step, with what is possible.

All checks raise ``UserError``, which is a ``ValueError``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, cast

from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch import nn

from lgrpo_lightning.contracts import AdvantageEstimator, PolicyLoss, RewardModel, Sampler, StepSegmenter
from lgrpo_lightning.distributed.precision import check_precision
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.policy.policy import NO_TREES
from lgrpo_lightning.rewards import RewardFunction
from lgrpo_lightning.rollouts.names import show_path
from lgrpo_lightning.training.options import Updates

ELSEWHERE = {
    "gradient_clip_val": "model.updates.gradient_clip_val",
    "accumulate_grad_batches": "model.policy.micro_batch_tokens (micro-batches inside each optimizer step)",
}
"""Trainer options that manual optimisation cannot use → this library's."""

KINDS: dict[str, tuple[type, str]] = {
    "sampler": (Sampler, "There are TransformersSampler() and VLLMSampler()."),
    "segmenter": (StepSegmenter, "There are TokenPrefixSegmenter() and DelimiterSegmenter()."),
    "advantage_estimator": (AdvantageEstimator, "There are LambdaGRPO() and GRPO()."),
    "loss": (PolicyLoss, "There are ClippedSurrogate(), GSPO() and CISPO()."),
    "reward_model": (
        RewardModel,
        "There is ExactMatch(), or give a function; a network is held by a RewardModel of your own.",
    ),
}
"""Argument of ``GRPOModule`` → its contract, and what it may be given."""

UNSUPPORTED = ("fsdp", "deepspeed")
"""Beginnings of the names of strategies that do not work here."""


def check_options(group_size: int, sampling: Sampling, updates: Updates) -> None:
    """Refuse options with which GRPO cannot learn."""
    if group_size < 2:
        raise UserError(
            f"model.group_size is {group_size}; it must be at least 2: a completion is compared with the "
            "others of its group."
        )
    if updates.keep_per_group is not None and updates.keep_per_group > group_size:
        raise UserError(
            f"updates.keep_per_group is {updates.keep_per_group}, and a group has only {group_size} completions "
            "(model.group_size). Sample more, or keep fewer; null keeps all."
        )
    if sampling.temperature == 0:
        raise UserError(
            "sampling.temperature is 0, so that all completions of a group would be the same; it must be "
            "above 0. Validation decodes greedily on its own (validation.greedy)."
        )
    if updates.old_logprobs == "sampler" and sampling.truncated:
        raise UserError(
            "updates.old_logprobs is 'sampler', but top_p, top_k or min_p make the sampler's log-probs those "
            "of another distribution than the policy's. Use updates.old_logprobs: policy, or top_p 1, top_k 0, "
            "min_p 0."
        )


def explain_no_images(sampler: Sampler, policy: PolicyConfig) -> str | None:
    """Why prompts may have no images; None where they may."""
    name = type(sampler).__name__
    if sampler.takes_turns:
        return f"what an environment says is text: {name} draws episodes of text alone. Leave the images out."
    if not sampler.takes_images:
        return f"{name} reads text only. Sample with TransformersSampler, or leave the images out."
    if policy.layout == "tree":
        return f"policy.layout is 'tree': {NO_TREES}. Use policy.layout: prefix, padded or auto."
    return None


def as_reward_model(given: Any) -> RewardModel:
    """A reward model; a function, or an object that can be called, as a ``RewardFunction``."""
    if callable(given) and not isinstance(given, RewardModel | type | nn.Module):
        return RewardFunction(given)
    check_kinds(reward_model=given)
    return cast(RewardModel, given)


def check_kinds(**given: Any) -> None:
    """Refuse what is no component of its kind, such as a class where an instance is needed."""
    for key, component in given.items():
        contract, instances = KINDS[key]
        if isinstance(component, contract):
            continue
        what = f"a {type(component).__name__}"
        if isinstance(component, type):
            what = f"the class {component.__name__}"
            if issubclass(component, contract):
                raise UserError(f"{key} is {what}; give an instance: {component.__name__}(…).")
        raise UserError(
            f"{key} is {what}; it must be an instance of a {contract.__name__}. {instances} A component's name alone "
            "is for YAML."
        )


# ------------------------------------------------------------------------------------------ before the Trainer is made


def check_machine(strategy: Any, accelerator: Any, precision: Any, devices: Any = 1) -> None:
    """Refuse a strategy, accelerator, precision or number of devices that cannot work, before the Trainer is made."""
    if isinstance(strategy, str):
        check_strategy(strategy)
    if accelerator in ("gpu", "cuda") and not _has_gpu(accelerator):
        raise UserError(
            f"trainer.accelerator is {accelerator!r}, but PyTorch finds no GPU on this machine "
            "(torch.cuda.is_available() is False). Use trainer.accelerator: cpu, or auto."
        )
    check_processes(devices, accelerator, len(os.sched_getaffinity(0)))
    if precision is not None:
        sharded = str(strategy).startswith("fsdp2") or isinstance(strategy, ModelParallelStrategy)
        check_precision(precision, sharded=sharded, gpu=accelerator != "cpu" and _has_gpu("gpu"))


def check_processes(devices: Any, accelerator: Any, cores: int) -> None:
    """Refuse far more processes on a CPU than it has cores, before they start; warn of more."""
    on_cpu = accelerator == "cpu" or (accelerator in (None, "auto") and not _has_gpu("gpu"))
    if not on_cpu or "LOCAL_RANK" in os.environ or not str(devices).isdecimal():  # else they run already
        return
    said = f"trainer.devices is {devices}: so many processes would share the {cores} cores of this CPU"
    if int(devices) > 4 * cores:
        raise UserError(f"{said}. Use at most one a core; more than four are refused.")
    if int(devices) > cores:
        rank_zero_warn(f"{said} and wait for each other. At most one a core is of use.")


def check_strategy(name: str) -> None:
    """Refuse the strategies that do not work here, by name."""
    from lightning.pytorch.strategies import StrategyRegistry

    if name.startswith("fsdp2"):
        return
    there = StrategyRegistry.available_strategies()
    if name.startswith(UNSUPPORTED) or name not in {"auto", *there}:
        possible = ["auto", *(s for s in ("ddp", "fsdp2") if s in there)]
        what = "is not supported here" if name.startswith(UNSUPPORTED) else "does not exist"
        raise UserError(f"trainer.strategy is {name!r}, which {what}. Use one of: {', '.join(possible)}.")


def _has_gpu(accelerator: str) -> bool:
    import torch

    return torch.cuda.is_available() or (accelerator == "gpu" and torch.backends.mps.is_available())


# ------------------------------------------------------------------------------------------ of a Trainer


def check_data(trainer: Any, *, refill: bool = False) -> None:
    """Refuse loaders in place of a data module: a run keeps the place in its prompts, and checks them.

    Args:
        refill: Whether further prompts will be asked for.
    """
    name = type(trainer.datamodule).__name__
    if not hasattr(trainer.datamodule, "validation_names"):
        given = "no data module" if trainer.datamodule is None else f"a {name}"
        call = f"trainer.{trainer.state.fn.value}(module, datamodule=PromptDataModule(...))"
        raise UserError(
            f"The Trainer was given {given}. Use {call}; rows of your own come from a PromptSource (docs/plugins.md)."
        )
    if refill and trainer.state.fn == "fit" and not hasattr(trainer.datamodule, "draw_further_prompts"):
        raise UserError(
            f"updates.refill_rounds asks the data module for further prompts, and {name} has no "
            "draw_further_prompts(count, without). Use PromptDataModule, or updates.refill_rounds: 0."
        )


def check_trainer(trainer: Any, updates: Updates, planned: int | None) -> None:
    """Refuse Trainer options that this library replaces by its own or that train nothing, and a folder without rights.

    Args:
        planned: Upper bound on the optimizer steps of the run, if there is one.
    """
    strategy = type(trainer.strategy).__name__.lower().removesuffix("strategy")
    if strategy in UNSUPPORTED:  # an object, from Python
        check_strategy(strategy)
    used = {
        "gradient_clip_val": trainer.gradient_clip_val,
        "accumulate_grad_batches": trainer.accumulate_grad_batches != 1,
    }
    for name, given in used.items():
        if given:
            raise UserError(f"trainer.{name} is not used here; set {ELSEWHERE[name]}.")
    if trainer.state.fn == "fit":
        if not trainer.fast_dev_run and trainer.is_global_zero:
            check_folder(trainer.default_root_dir)
        check_limits(trainer, updates, planned)
    check_gradient_snr(trainer, updates)


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder in which a run cannot write, rather than fail at the first rollout."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".lgrpo-"):
            pass
    except OSError as error:
        raise UserError(
            f"trainer.default_root_dir is {show_path(Path(folder))!r}, and nothing can be written there "
            f"({error.strerror}). Everything a run writes goes into this folder; name one that is yours."
        ) from error


def check_limits(trainer: Any, updates: Updates, planned: int | None) -> None:
    """Refuse limits within which nothing would be trained; say where a run of whole rollouts ends before its limit.

    Args:
        planned: Most optimizer steps of the run, where they are known.
    """
    each = updates.steps_per_rollout
    if trainer.fast_dev_run:  # its number is one of batches
        trainer.fit_loop.epoch_loop.max_steps = int(trainer.fast_dev_run) * each
    for name in ("max_steps", "max_epochs", "limit_train_batches"):
        if getattr(trainer, name) == 0:
            raise UserError(
                f"trainer.{name} is 0, so that nothing would be trained. Set another, or measure the model with "
                "lgrpo validate."
            )
    for name in ("val_check_interval", "check_val_every_n_epoch"):
        if isinstance(value := getattr(trainer, name), int | float) and value <= 0:
            raise UserError(
                f"trainer.{name} is {value}; it must be above 0. Without validation: trainer.limit_val_batches: 0."
            )
    steps = f"a rollout makes {each} optimizer steps (model.updates.iterations times mini_batches)"
    if 0 < trainer.max_steps < each:
        raise UserError(
            f"trainer.max_steps is {trainer.max_steps}, and {steps}: a run consists of whole rollouts. Use at "
            f"least {each}."
        )
    if planned is not None and (trainer.min_steps or 0) > planned:
        raise UserError(
            f"trainer.min_steps is {trainer.min_steps}, but trainer.max_steps or model.updates.max_rollouts end the "
            f"run after {planned}."
        )
    if trainer.max_steps > 0 and trainer.max_steps % each and updates.steps_are_sure:
        say(
            trainer,
            f"trainer.max_steps is {trainer.max_steps}, and {steps}: the run ends with the last whole rollout, "
            f"after {planned} steps.",
        )


def check_gradient_snr(trainer: Any, updates: Updates) -> None:
    """Refuse the gradient's signal-to-noise ratio over several processes, which average gradients."""
    if updates.gradient_snr and trainer.world_size > 1:
        raise UserError(
            f"updates.gradient_snr is for one process, and this run has {trainer.world_size}: gradients are summed "
            "up before the spread over passes can be told. Set updates.gradient_snr: false, or trainer.devices: 1."
        )
