"""Tensor parallelism: the matrices of each decoder layer divided over a group of ranks, by the model's own plan."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.policy import Policy
from lgrpo_lightning.policy.sharded_weights import Division, is_divided

DIVIDED = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
PARTIAL = "replicated_with_grad_allreduce"
"""Style of what every rank keeps whole and applies to its own heads: each has a part of the gradient."""


def divide(policy: Policy, mesh: Any) -> None:
    """Keep only this rank's columns and rows of the matrices in ``policy``'s decoder layers.

    Heads, and the width of the feed-forward layers, are divided; embeddings, norms and the head stay whole. It comes
    before FSDP2. Every rank of ``mesh``, the tensor group, holds the same weights before.
    """
    styles = make_plan(policy, mesh.size())
    for name, style in styles.items():
        if style in DIVIDED:
            module = policy.model.get_submodule(name)
            parallelize_module(module, mesh, DIVIDED[style](), src_data_rank=None)
    partial = (name for name, style in styles.items() if style == PARTIAL)
    names = {
        f"model.{name}.{leaf}" for name in partial for leaf, _ in policy.model.get_submodule(name).named_parameters()
    }
    policy.division = Division(mesh=mesh, partial=frozenset(names))


def make_plan(policy: Policy, size: int) -> dict[str, str]:
    """The plan for a tensor group of ``size``; a policy that cannot be divided so is refused, with what is possible."""
    if policy.config.lora is not None:
        raise UserError(
            f"tensor_parallel_size is {size}, but an adapter (policy.lora) is not divided over devices. Use "
            "tensor_parallel_size: 1, which shards the model under it over all of them."
        )
    styles = read_plan(policy.model)
    check_sizes(policy.model, styles, size)
    return styles


def read_plan(model: Any) -> dict[str, str]:
    """Name of a module → its style in the model's plan, without embeddings and head; unknown styles are refused."""
    whole = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    modules = {name: module for name, module in model.named_modules() if name and id(module) not in whole}
    styles = dict(_match_plan(model, list(modules)))
    odd = {name: style for name, style in styles.items() if style not in (*DIVIDED, PARTIAL)}
    linear = [name for name, style in styles.items() if style in DIVIDED]
    odd |= {name: styles[name] for name in linear if type(modules[name]) is not nn.Linear}
    parameters = [name for name, _ in model.named_parameters()]
    odd |= dict(_match_plan(model, parameters))
    parents = {name.rpartition(".")[0] for name in linear}
    for name in parameters:  # one that is applied to a rank's own heads would have a part of its gradient
        owner = name.rpartition(".")[0]
        if owner not in styles and any(name.startswith(f"{parent}.") for parent in parents):
            odd[owner] = "not in it"
    if not linear or odd:
        name = next(iter(odd), "")
        why = (
            f"its plan is not one of {', '.join((*DIVIDED, PARTIAL))} ({name}: {odd[name]})"
            if odd
            else "it has no plan"
        )
        raise UserError(
            f"tensor_parallel_size: {type(model).__name__} cannot be divided: {why}. Use tensor_parallel_size: 1, "
            "which shards it over all devices; models such as Llama, Qwen2, Qwen3, Mistral and Gemma can be."
        )
    return styles


def _match_plan(model: Any, names: list[str]) -> Iterator[tuple[str, str]]:
    """(name, style) of those that the model's plan names; ``*`` stands for a layer's number."""
    patterns = [(re.compile(re.escape(p).replace(r"\*", r"\d+")), style) for p, style in model.tp_plan.items()]
    for name in names:
        for pattern, style in patterns:
            if pattern.fullmatch(name):
                yield name, style


def check_sizes(model: Any, styles: dict[str, str], size: int) -> None:
    """Refuse a group that does not divide heads and layers."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    linear = {name: model.get_submodule(name) for name, style in styles.items() if style in DIVIDED}
    widths = [m.out_features if styles[name] == "colwise" else m.in_features for name, m in linear.items()]
    common = math.gcd(heads, kv_heads, *widths)
    if common % size:
        possible = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise UserError(
            f"tensor_parallel_size is {size}, which does not divide {type(model).__name__}: it has {heads} attention "
            f"heads, {kv_heads} key-value heads and layers {max(widths)} wide. Possible are {possible}."
        )


@torch.no_grad()
def agree_gradients(policy: Policy) -> None:
    """Sum the parts of a gradient over the tensor group, and make those of whole weights the same to the bit on it.

    It follows an optimizer step's last backward pass. Collective; nothing where the policy is not divided.
    """
    division = policy.division
    if division is None:
        return
    group, size = division.mesh.get_group(), division.mesh.size()
    for name, parameter in policy.named_parameters():
        gradient: Any = parameter.grad
        if gradient is None or is_divided(parameter):
            continue
        part = gradient.to_local()
        torch.distributed.all_reduce(part, group=group)
        # whole weights have the whole gradient on every rank: the mean makes them the same to the bit
        if name not in division.partial:
            part /= size
