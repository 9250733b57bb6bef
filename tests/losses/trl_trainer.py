"""``GRPOTrainer._compute_loss`` of TRL itself, with a trainer that has nothing but what it reads."""

from __future__ import annotations

import math
from collections import defaultdict
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.losses.stub_policy import LONGEST, Case


def trainer(trl: Any, case: Case, **options: Any) -> Any:
    """What ``_compute_loss`` reads of a trainer; its model gives the log-probs and entropies of ``case``."""
    changed = dict(options)

    def scored(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, None]:
        return case.logprobs, case.entropies, None

    args = {
        "delta": None,
        "use_bias_correction_kl": False,
        "steps_per_generation": 1,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "vespo_k_pos": 2.0,
        "vespo_lambda_pos": 3.0,
        "vespo_k_neg": 3.0,
        "vespo_lambda_neg": 2.0,
        "entropy_target": 0.2,
        "entropy_coef_delta": 0.005,
        "entropy_coef_max": 1.0,
        "entropy_coef_min": 0.0,
    }
    args |= {name: changed.pop(name) for name in list(changed) if name in args}
    own = {
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "entropy_coef": 0.0,
        "use_adaptive_entropy": False,
        "use_vllm": False,
        "loss_type": "grpo",
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.28,
    } | changed
    made = SimpleNamespace(
        _get_per_token_logps_and_entropies=scored,
        accelerator=SimpleNamespace(
            num_processes=1,
            sync_gradients=True,
            gather=lambda x: x,
            reduce=lambda x, reduction: x,
            pad_across_processes=lambda x, dim, pad_index: x,
        ),
        args=SimpleNamespace(**args),
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        aux_loss_enabled=False,
        _entropy_bonus_enabled=own["entropy_coef"] != 0 or own["use_adaptive_entropy"],
        _last_world_entropy=math.inf,
        _entropy_window_stats=None,
        vllm_importance_sampling_correction=own["use_vllm"],
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        get_off_policy_mask=trl.GRPOTrainer.get_off_policy_mask,
        get_gamma_weights=trl.GRPOTrainer.get_gamma_weights,
        **own,
    )
    made.get_high_entropy_mask = MethodType(trl.GRPOTrainer.get_high_entropy_mask, made)
    return made


def importance_ratio(case: Case, mode: str, maximum: float | None, minimum: float | None) -> Tensor:
    """The correction as ``_generate_and_score_completions`` computes it, where no function of TRL's can be called."""
    difference = torch.nan_to_num((case.old - case.sampler) * case.mask, nan=0.0)
    if mode.startswith("sequence"):
        difference = difference.sum(-1, keepdim=True)
    ratio = difference.exp()
    if mode.endswith("truncate"):
        return ratio.clamp(min=minimum, max=maximum)
    low, high = -math.inf if minimum is None else minimum, math.inf if maximum is None else maximum
    return ratio.masked_fill((ratio < low) | (ratio > high), 0.0)


def trl_loss(
    made: Any, method: Any, case: Case, *, off_policy: bool = True, ratio: Tensor | None = None
) -> tuple[float, Tensor, Tensor, dict[str, float]]:
    """(loss, gradient of the log-probs, of the entropies, metrics) of ``method``, a trainer's ``_compute_loss``."""
    shape = case.mask.shape
    real = torch.arange(shape[1]) < torch.tensor(case.lengths)[:, None]
    inputs = {
        "prompt_ids": torch.ones(shape[0], 2, dtype=torch.long),
        "prompt_mask": torch.ones(shape[0], 2, dtype=torch.long),
        "completion_ids": torch.ones(shape, dtype=torch.long),
        "completion_mask": real.long(),
        "tool_mask": case.mask.long(),
        "advantages": case.advantages,
        "num_items_in_batch": case.mask.sum(),
        "ref_per_token_logps": case.ref,
    }
    if off_policy:
        inputs["old_per_token_logps"] = case.old
    if ratio is not None:
        inputs |= {"importance_sampling_ratio": ratio, "sampling_per_token_logps": case.sampler}
    case.logprobs.grad = case.entropies.grad = None
    loss = method(made, made.model, inputs)
    loss.backward()
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in (case.logprobs, case.entropies)]
    return loss.item(), *gradients, {n: v[-1] for n, v in made._metrics["train"].items()}
