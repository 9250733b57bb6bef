"""``lgrpo estimate --config FILE``: memory and time of a run's rollout, before anything is loaded."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from typing import Any

import pandas as pd
import torch
import yaml

from lgrpo_lightning.commands import child
from lgrpo_lightning.commands.entries import find_drawing_sampler
from lgrpo_lightning.commands.messages import quieten
from lgrpo_lightning.distributed.precision import ALIASES, check_precision, choose_weights_type
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.registry.import_path import import_object
from lgrpo_lightning.rewards import TeacherLogprobs
from lgrpo_lightning.samplers.vllm.options import EngineOptions
from lgrpo_lightning.training import Objective, Updates
from lgrpo_lightning.training.compatibility import reads_reference
from lgrpo_lightning.training.estimate import (
    Plan,
    build_policy,
    count_running,
    divide_engine,
    estimate_memory,
    estimate_time,
)
from lgrpo_lightning.training.hardware import GPUS, Hardware, describe_gpu, measure_cpu

PROMPT = 512
"""Tokens of a prompt where neither --prompt_length nor data.max_prompt_length says."""
GIB = 2**30
Options = argparse.Namespace
Changes = dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """Print the estimate; 0: it fits, 1: it does not."""
    options, flags = parse(list(argv)[1:])
    quieten()
    config = yaml.safe_load(child.print_config([*(f"--config={path}" for path in options.config), *flags]))
    hardware = find_hardware(config, options)
    plan = make_plan(config, options)
    print(describe(plan, hardware))
    if not (lacking := judge(plan, hardware)[1]):
        return 0
    print(f"\nIt does not fit: {lacking}. GiB after a change, each by itself:")
    replan = partial(make_changed_plan, config, options, plan.policy)
    for changes in suggest(config, plan, replan, hardware):
        peak, lacking = judge(replan(changes), hardware)
        print(f"  {peak:8.2f}  {'does not fit' if lacking else 'fits':<14}{write_flags(changes)}")
    return 1


def parse(words: list[str]) -> tuple[Options, list[str]]:
    """The options of the estimate, and flags over the configuration."""
    parser = argparse.ArgumentParser(
        prog="lgrpo estimate",
        description=f"{__doc__} Further flags change the configuration, as those of lgrpo fit.",
        epilog="Exit status: 0 it fits, 1 it does not, 2 error.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-c", "--config", action="append", required=True, help="a configuration file")
    add("--gpus", type=int, help="GPUs that train; without it, the run is on this machine's CPU")
    add("--gpu", help=f"one of {', '.join(GPUS)}; default this machine's, else H100")
    add("--memory", type=float, help="GiB of each; default the data sheet's, of a CPU the machine's")
    add("--prompt_length", type=int, help=f"tokens of a prompt; default data.max_prompt_length, else {PROMPT}")
    add("--completion_length", type=int, help="tokens of a completion; default sampling.max_new_tokens")
    options, flags = parser.parse_known_args(words)
    for name in ("gpus", "memory", "prompt_length", "completion_length"):
        if (value := getattr(options, name)) is not None and value <= 0:
            raise UserError(f"--{name} is {value}; it must be above 0.")
    return options, flags


def count_ranks(config: Mapping[str, Any], options: Options) -> int:
    """Processes that train."""
    trainer = config["trainer"]
    devices = trainer.get("devices")
    if options.gpus:
        return int(options.gpus)
    count = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 1
    return count * int(trainer.get("num_nodes") or 1)


def find_hardware(config: Mapping[str, Any], options: Options) -> Hardware:
    """What the run is estimated for."""
    if options.gpus:
        here = torch.cuda.get_device_name() if torch.cuda.is_available() else "H100"
        return describe_gpu(options.gpu or here, options.memory)
    if options.gpu or config["trainer"].get("accelerator") in ("gpu", "cuda"):
        raise UserError("Say how many GPUs the run has, such as --gpus 8; without --gpus it is on the CPU.")
    return measure_cpu(options.memory, count_ranks(config, options))


def make_plan(config: Mapping[str, Any], options: Options, like: Policy | None = None) -> Plan:
    """What one process of a complete configuration does.

    Args:
        like: A policy whose model is taken where this one has the same.
    """
    trainer, model, data = config["trainer"], config["model"], config["data"]
    objective, updates = Objective(**model["objective"]), Updates(**model["updates"])
    strategy = trainer.get("strategy") or "auto"
    name = str(strategy["class_path"] if isinstance(strategy, Mapping) else strategy).lower()
    sharded = "fsdp2" in name or "modelparallel" in name
    precision = ALIASES.get(str(trainer.get("precision") or 32), str(trainer.get("precision")))
    check_precision(precision, sharded=sharded, gpu=bool(options.gpus))
    policy = choose_weights_type(precision, PolicyConfig.from_options(model["policy"]))
    ranks, lora = count_ranks(config, options), policy.lora
    component = find_drawing_sampler(model["sampler"])
    sampler, vllm = component.get("init_args") or {}, component["class_path"].endswith(".VLLMSampler")
    rescored = updates.old_logprobs == "policy" and updates.steps_per_rollout > 1
    return Plan(
        policy=build_policy(policy, like),
        prompt=options.prompt_length or data.get("max_prompt_length") or PROMPT,
        completion=options.completion_length or model["sampling"]["max_new_tokens"],
        groups=-(-data["prompts_per_step"] // ranks),
        group_size=model["group_size"],
        mixed=precision.endswith("-mixed"),
        state=measure_optimizer_state(model["optimizer"]),
        ranks=ranks,
        sharded=sharded,
        reference=keeps_reference(objective, model) and (lora is None or lora.from_adapter is not None),
        scored=(objective.kl_coef > 0) + (rescored or objective.top_entropy < 1),
        iterations=updates.iterations,
        mini_batches=updates.mini_batches,
        sampler=sampler,
        engine=EngineOptions(**(sampler.get("engine") or {})) if vllm else None,
    )


def keeps_reference(objective: Objective, model: Mapping[str, Any]) -> bool:
    """Whether there is a reference; a teacher says whether it reads it, of other rewards the class is enough."""
    given = model["reward_model"]
    components = dict[str, Any]()
    for number, reward in enumerate(given if isinstance(given, list) else [given]):
        cls: Any = import_object(reward["class_path"])
        teaches = issubclass(cls, TeacherLogprobs)  # others may load a model when they are made
        components[str(number)] = cls(**(reward.get("init_args") or {})) if teaches else cls
    return reads_reference(objective, components)


def measure_optimizer_state(optimizer: Mapping[str, Any]) -> float:
    """Bytes of state for each byte of a matrix, from a step with a small one."""
    weight = torch.nn.Parameter(torch.ones(64, 64))
    weight.grad = torch.ones_like(weight)
    made: Any = import_object(optimizer["class_path"])([weight], **(optimizer.get("init_args") or {}))
    made.step()
    kept = [value for value in made.state[weight].values() if isinstance(value, torch.Tensor) and value.numel() > 1]
    return float(sum(value.nbytes for value in kept) / weight.nbytes)


def judge(plan: Plan, hardware: Hardware) -> tuple[float, str]:
    """GiB of the phase that takes most, and why the run does not fit; nothing where it does."""
    totals = {phase: sum(parts.values()) for phase, parts in estimate_memory(plan, hardware).items()}
    phase, peak = max(totals.items(), key=lambda item: item[1])
    if peak > hardware.memory:
        return peak / GIB, f"{phase} takes {peak / GIB:.1f} of {hardware.memory / GIB:.1f} GiB"
    enough = count_running(plan, hardware) > 0
    return peak / GIB, "" if enough else "vLLM's share does not hold its weights and the cache of one completion"


def describe(plan: Plan, hardware: Hardware) -> str:
    """The two tables, as text."""
    tokens, rows = plan.passes[0]
    where = f"{plan.ranks} x {hardware.name}, {hardware.memory / GIB:.1f} GiB each"
    how = "fsdp2" if plan.sharded else "ddp" if plan.ranks > 1 else "one device"
    memory = pd.DataFrame(estimate_memory(plan, hardware)) / GIB
    memory.loc["total"] = memory.sum()
    seconds = estimate_time(plan, hardware)
    total = sum(seconds.values())
    stages = pd.DataFrame({"seconds of a rollout": {**seconds, "rewards": float("nan"), "total": total}})
    form: dict[str, Any] = {"float_format": "{:.2f}".format, "col_space": 16}
    return "\n".join(
        [
            f"{type(plan.policy.model).__name__}, {plan.shape.numbers:,} weights; {how}, {where}",
            f"Prompts of {plan.prompt} tokens, completions of {plan.completion}: set --prompt_length, "
            "--completion_length.",
            f"Layout {plan.layout}: {len(plan.passes)} passes an optimizer step, the largest {rows} completions in "
            f"{tokens:,} tokens; {count_running(plan, hardware)} of {plan.rows} completions are drawn at a time.",
            "",
            memory.rename_axis("GiB", axis="columns").to_string(na_rep="-", **form),
            "",
            stages.to_string(na_rep="not known", **form),
        ]
    )


def make_changed_plan(config: Mapping[str, Any], options: Options, like: Policy, changes: Changes) -> Plan:
    """The plan of the configuration with some dotted keys changed."""
    changed = deepcopy(dict(config))
    for key, value in changes.items():
        *path, last = key.split(".")
        at: Any = changed
        for name in path:
            at[name] = at.get(name) or {}
            at = at[name]
        at[last] = value
    return make_plan(changed, options, like)


def suggest(
    config: Mapping[str, Any], plan: Plan, replan: Callable[[Changes], Plan], hardware: Hardware
) -> Iterator[Changes]:
    """Changes that take memory away, each alone; then all that are about the trained model, together."""
    policy = plan.policy.config
    together: Changes = {}
    for part in (2, 4, 8, 16) if policy.micro_batch_tokens > plan.length else ():
        together["model.policy.micro_batch_tokens"] = max(plan.length, policy.micro_batch_tokens // part)
        if not judge(replan(together), hardware)[1]:
            break
    if not policy.gradient_checkpointing:
        together["model.policy.gradient_checkpointing"] = True
    if plan.ranks > 1 and not plan.sharded:
        together["trainer.strategy"] = "fsdp2"
    yield from ({key: value} for key, value in together.items())
    if policy.lora is None and find_spec("peft"):
        yield {"model.policy.lora": {"rank": 16}}
    if len(together) > 1:
        yield together
    if "sampler" in (config["model"]["sampler"].get("init_args") or {}):
        return  # the options stand inside of another sampler's
    if plan.engine is None and count_running(plan, hardware) > 8:
        yield {"model.sampler.init_args.max_batch_tokens": 8 * plan.length}
    elif plan.engine and hardware.gpu and not plan.served:
        share = 0.1 + divide_engine(plan, plan.engine, hardware)[0] / hardware.memory
        yield {"model.sampler.init_args.engine.gpu_memory_utilization": min(0.9, round(share, 2))}


def write_flags(changes: Changes) -> str:
    """The changes as words of a command line."""
    return " ".join(
        f"--{key.replace('.init_args', '')}={value if isinstance(value, str) else shlex.quote(json.dumps(value))}"
        for key, value in changes.items()
    )
