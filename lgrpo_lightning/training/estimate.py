"""Memory and time of a rollout from configuration and shape alone; docs/estimate.md has the formulae."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.choice import LayoutName, count_linear_parameters, estimate_cost
from lgrpo_lightning.policy.quantization import BYTES
from lgrpo_lightning.samplers.vllm.options import EngineOptions, count_cache_bytes
from lgrpo_lightning.training.hardware import Hardware

Parts = dict[str, float]

SAMPLING_LOGITS = 16
"""Bytes that drawing a token takes for each id of the vocabulary: fp32 logits, noise, and what they are made from."""
KINDS = {2: "bfloat16", 4: "float32"}
TRAFFIC = {2: 16, 4: 8}
"""Bytes that forward and backward read and write for each byte kept for the backward pass, by bytes of a number."""
LOGIT_TRAFFIC = 120
"""The same for each logit on a GPU; a CPU's blocks of logits stay in the cache."""


def build_policy(config: PolicyConfig, like: Policy | None = None) -> Policy:
    """A policy without weights, of the shape that ``config.json`` says; with the model of ``like`` where it has it."""
    lora = config.lora and replace(config.lora, from_adapter=None)  # of the same shape, and nothing is read
    config = replace(config, weights="random", lora=lora)
    of_passes = ("micro_batch_tokens", "gradient_checkpointing")
    if like is not None and like.config == replace(config, **{n: getattr(like.config, n) for n in of_passes}):
        policy = copy(like)
        policy.config = config
        return policy
    with torch.device("meta"):
        policy = Policy(replace(config, quantization=None))
    policy.config = config
    policy.compute_device = torch.device("cpu")  # of counts and index tensors
    return policy


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a model's memory and time depend on.

    Attributes:
        weights, trained: Bytes of all weights, and of those with a gradient.
        numbers, ends: Weights but those of an adapter, and of them those of embeddings and head.
        linear, head: Multiply-adds a token, of the linear layers without the head and of the head.
        outputs: Numbers that the linear layers without the head give for a token.
        dropped: Bytes of a token that adapters keep beside them.
    """

    weights: int
    trained: int
    numbers: int
    ends: int
    linear: float
    head: int
    outputs: float
    dropped: float
    layers: int
    hidden: int
    vocabulary: int


def measure_shape(model: Any, quantization: str | None = None) -> Shape:
    """The shape of a causal LM, on any device; of one that is not quantised yet."""
    text, head = model.config.get_text_config(), model.get_output_embeddings()
    parameters, embeddings = dict(model.named_parameters()), model.get_input_embeddings().weight
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = next((n for name in names if (n := getattr(text, name, None))), 1)
    active = (getattr(text, "num_experts_per_tok", None) or 1) / experts
    routed = sum(p.numel() for p in parameters.values() if p.dim() == 3 and p.shape[0] == experts > 1)
    inside = [(n, m) for n, m in model.named_modules() if m is not head and not hasattr(m, "base_layer")]
    outputs = sum(getattr(m, "out_features", getattr(m, "nf", 0)) for n, m in inside if ".lora_B." not in n)
    dropped = 0
    for name, module in inside:
        if ".lora_A." in name:
            drops = isinstance(model.get_submodule(name.replace("lora_A", "lora_dropout")), nn.Dropout)
            own = module.weight.element_size()
            dropped += module.in_features * ((own + 1) * drops or own * (own != embeddings.element_size()))
    saved = 0.0
    for name, module in inside if quantization else ():
        if (isinstance(module, nn.Linear) or hasattr(module, "nf")) and ".lora_" not in name:
            saved += module.weight.nbytes - module.weight.numel() * BYTES[quantization or ""]
    return Shape(
        weights=sum(p.nbytes for p in parameters.values()) - int(saved),
        trained=sum(p.nbytes for p in parameters.values() if p.requires_grad),
        numbers=sum(p.numel() for n, p in parameters.items() if ".lora_" not in n),
        ends=sum({id(p): p.numel() for p in (head.weight, embeddings)}.values()),
        linear=count_linear_parameters(model) - head.weight.numel() - routed * (1 - active),
        head=head.weight.numel(),
        outputs=outputs + active * routed / text.hidden_size,
        dropped=dropped,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one process does with a rollout.

    Attributes:
        policy: Without weights.
        prompt, completion: Tokens of each.
        groups, group_size: Prompts of this process, and completions of each.
        mixed: Whether products are of 16-bit numbers and the weights are fp32.
        state: Bytes of the optimizer's state for each byte of a trained weight.
        ranks, sharded: Processes that train, and whether they divide the weights.
        reference: Whether a frozen copy of the model is there.
        scored: Passes over a rollout without gradients, for old log-probs and the reference.
        iterations, mini_batches: Those of ``model.updates``.
        sampler, engine: The options of the component that samples; of vLLM the engine's too.
    """

    policy: Policy
    prompt: int
    completion: int
    groups: int
    group_size: int
    mixed: bool = False
    state: float = 2.0
    ranks: int = 1
    sharded: bool = False
    reference: bool = False
    scored: int = 0
    iterations: int = 1
    mini_batches: int = 1
    sampler: Mapping[str, Any] = field(default_factory=dict)
    engine: EngineOptions | None = None

    @cached_property
    def shape(self) -> Shape:
        """The model's."""
        return measure_shape(self.policy.model, self.policy.config.quantization)

    @property
    def size(self) -> int:
        """Bytes of a number in a matrix product."""
        return 2 if self.mixed or self.policy.config.dtype != "float32" else 4

    @property
    def rows(self) -> int:
        """Completions of a rollout."""
        return self.groups * self.group_size

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.prompt + self.completion

    @property
    def served(self) -> int:
        """Servers that sample."""
        return len((self.sampler.get("server") or {}).get("urls") or ())

    @cached_property
    def stand_ins(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Prompts and completions of an optimizer step, that share their prompts alone."""
        rows = range(max(1, self.groups // self.mini_batches) * self.group_size)
        prompts = [(row // self.group_size, *[0] * (self.prompt - 1)) for row in rows]
        return prompts, [(row, *[0] * (self.completion - 1)) for row in rows]

    @cached_property
    def layout(self) -> LayoutName:
        """What the policy chooses for them."""
        return self.policy.choose_layout(*self.stand_ins).layout

    @cached_property
    def passes(self) -> list[tuple[int, int]]:
        """(tokens computed, completions) of every forward pass of an optimizer step, the largest first."""
        self.policy.take_layout(self.layout, *self.stand_ins, reason="")
        passes = []
        for pack in self.policy.divide_rows(*self.stand_ins):
            prompts = len(pack) if self.layout == "padded" else len({row // self.group_size for row in pack})
            passes.append((prompts * self.prompt + len(pack) * self.completion, len(pack)))
        return sorted(passes, reverse=True)

    @property
    def kept_bytes(self) -> float:
        """Bytes that autograd keeps of a token: the inputs of products and norms, fp32 copies of the latter's."""
        norms = (18 if self.mixed else 8) * self.shape.hidden * self.shape.layers
        return 2 * self.size * self.shape.outputs + norms + self.shape.dropped

    @property
    def chunks(self) -> int:
        """In which the logits of the largest pass are computed."""
        return -(-self.passes[0][1] * self.completion // self.policy.logprob_chunk)

    def count_cache(self, dtype: str) -> int:
        """Bytes of keys and values of a token."""
        return count_cache_bytes(self.policy.model.config, dtype)


def estimate_memory(plan: Plan, hardware: Hardware) -> dict[str, Parts]:
    """Phase of a rollout → bytes of one device by part. The peak is that of the largest phase."""
    shape, lora = plan.shape, plan.policy.config.lora
    share = 1 / plan.ranks if plan.sharded else 1
    gradients: Parts = {"gradients": shape.trained * share}
    fixed: Parts = {"program": hardware.program, "weights": shape.weights * share}
    fixed["optimizer state"] = shape.trained * plan.state * share
    if plan.reference:
        fixed["reference"] = shape.weights * share
    if plan.ranks > 1 and not plan.sharded:
        fixed["buckets of ddp"] = shape.trained
    training: Parts = {"activations": estimate_activations(plan), "logits": estimate_logits(plan, hardware)}
    if plan.sharded:
        largest = shape.ends + (shape.numbers - shape.ends) / shape.layers
        training["gathered and cast weights"] = 2 * largest * plan.size
    elif plan.mixed:
        one_layer = lora is not None and plan.policy.config.gradient_checkpointing
        training["gathered and cast weights"] = 2 * (shape.linear / (shape.layers if one_layer else 1) + shape.head)
    if len(plan.passes) > 1:
        training |= gradients
    sampling = estimate_sampler(plan, hardware)
    stays = sampling if plan.engine and not plan.sampler.get("sleep_level") else {}
    # a GPU's optimizer takes the roots of all moments at once
    step = gradients | ({"step": shape.trained * share} if hardware.gpu else {})
    return {"sampling": fixed | sampling, "training": fixed | stays | training, "optimizer step": fixed | stays | step}


def estimate_activations(plan: Plan) -> float:
    """Bytes that the largest pass keeps for its backward pass; with checkpointing every layer's input and one layer."""
    tokens, rows = plan.passes[0]
    layers, kept = plan.shape.layers, plan.kept_bytes
    if plan.policy.config.gradient_checkpointing:
        kept = kept / layers + (4 if plan.mixed else plan.size) * plan.shape.hidden * layers
    # keys and values of a prompt, repeated for its completions
    repeated = plan.layout == "prefix" and rows * plan.length * plan.count_cache(KINDS[plan.size])
    return tokens * kept + repeated


def estimate_logits(plan: Plan, hardware: Hardware) -> float:
    """Bytes of a chunk of logits, with the fp32 numbers that a GPU makes of all of them at once."""
    chunk = -(-plan.passes[0][1] * plan.completion // plan.chunks)
    beside = (8 if plan.size == 2 else 4) if hardware.gpu else 0
    return float(chunk * plan.shape.vocabulary * (plan.size + beside))


def estimate_sampler(plan: Plan, hardware: Hardware) -> Parts:
    """Bytes by part while it samples."""
    if plan.served:
        return {}
    if plan.engine:
        weights, cache, _ = divide_engine(plan, plan.engine, hardware)
        return {"vLLM's weights": weights, "vLLM's cache": cache}
    rows = count_running(plan, hardware)
    whole = {"gathered and cast weights": float(plan.shape.numbers * plan.size)} if plan.sharded else {}
    if not hardware.gpu and plan.size == 4 and not plan.sampler.get("compile"):
        whole["packed weights"] = plan.size * (plan.shape.linear + plan.shape.head)
    return whole | {
        "sampler's cache": float(rows * plan.length * plan.count_cache(plan.policy.config.dtype)),
        "sampler's logits": float(rows * plan.shape.vocabulary * SAMPLING_LOGITS),
    }


def divide_engine(plan: Plan, engine: EngineOptions, hardware: Hardware) -> tuple[float, float, int]:
    """(bytes of weights, of the cache, completions that it holds) of vLLM on one device."""
    config, kind = plan.policy.model.config, plan.policy.config.dtype
    arguments = engine.make_arguments(config, dtype=kind, longest_sequence=plan.length, cpu=not hardware.gpu)
    weights = plan.shape.numbers * (4 if arguments["dtype"] == "float32" else 2) / engine.tensor_parallel_size
    if (cache := arguments.get("kv_cache_memory_bytes")) is None:
        cache = arguments["gpu_memory_utilization"] * hardware.memory - weights
    held = cache * engine.tensor_parallel_size // (plan.length * plan.count_cache(arguments["dtype"]))
    return weights, cache, max(0, int(held))


def count_running(plan: Plan, hardware: Hardware) -> int:
    """Completions that are drawn at a time; 0 where vLLM's share holds none."""
    if plan.engine is None:
        return max(1, min(plan.rows, int(plan.sampler.get("max_batch_tokens") or 65536) // plan.length))
    if plan.served:
        return min(plan.rows, plan.engine.max_num_seqs * plan.served)
    return min(plan.rows, plan.engine.max_num_seqs, divide_engine(plan, plan.engine, hardware)[2])


def estimate_time(plan: Plan, hardware: Hardware) -> Parts:
    """Seconds of a rollout by stage, without rewards and without what ranks send each other."""
    shape, config = plan.shape, plan.policy.config
    prompts, completions = plan.stand_ins
    tokens, scored = sum(t for t, _ in plan.passes), len(completions) * plan.completion
    speed, bandwidth = hardware.flops[plan.size], hardware.bandwidth
    body = 2 * estimate_cost(plan.policy.model, plan.layout, prompts, completions, int(shape.linear * tokens))
    head = 2 * shape.head * scored
    moved = TRAFFIC[plan.size] * plan.kept_bytes * tokens + LOGIT_TRAFFIC * shape.vocabulary * scored * hardware.gpu
    least = len(plan.passes) * shape.layers * hardware.layer_seconds
    again, times = config.gradient_checkpointing, 2 if config.lora else 3
    products = body * (times + again) + head * (times + (plan.chunks > 1))
    one = max(products / speed + moved * (1 + again / 3) / bandwidth, least * (1 + again / 3))
    without = max((body + head) / speed + moved / 3 / bandwidth, least / 3)
    step = 2 * (2 + plan.state) * shape.trained / (plan.ranks if plan.sharded else 1) / bandwidth
    return {
        "sampling": estimate_sampling_time(plan, hardware),
        "log-probs": without * plan.mini_batches * plan.scored,
        "training": one * plan.mini_batches * plan.iterations,
        "optimizer steps": step * plan.mini_batches * plan.iterations,
    }


def estimate_sampling_time(plan: Plan, hardware: Hardware) -> float:
    """Seconds of reading the prompts and of every decoding step; infinite where vLLM's share holds no completion."""
    shape, running, speed = plan.shape, count_running(plan, hardware), hardware.flops[plan.size]
    if not running:
        return float("inf")
    size = plan.size if plan.engine else 4 if plan.policy.config.dtype == "float32" else 2
    products = shape.linear + shape.head
    cache = running * (plan.prompt + plan.completion / 2) * plan.count_cache(KINDS[size])
    read = size * products + cache + running * shape.vocabulary * 40
    host = shape.layers * hardware.decode_seconds * (0.1 if plan.engine or plan.sampler.get("compile") else 1)
    step = max(2 * products * running / speed + read / hardware.bandwidth, host)
    reading = 2 * shape.linear * plan.prompt * plan.groups / speed
    return step * plan.completion * -(-plan.rows // running) + reading
