"""TRL's own loss of a batch, with a stub in place of its trainer."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

ALONE = SimpleNamespace(
    num_processes=1,
    gather=lambda x: x,
    reduce=lambda x, reduction: x,
    pad_across_processes=lambda x, dim, pad_index: x,
    sync_gradients=True,
)
"""The accelerator of one process."""
READ = ("max_completion_length", "loss_type", "beta", "importance_sampling_level", "top_entropy_quantile")
"""What the trainer takes from its configuration under the same name."""


def trl_config(options: dict[str, Any], folder: Path) -> Any:
    """A ``GRPOConfig`` of these options, on a CPU."""
    from trl import GRPOConfig

    return GRPOConfig(output_dir=str(folder), use_cpu=True, **{"bf16": False, **options})


def stub(config: Any, logprobs: Tensor, entropies: Tensor) -> Any:
    """What ``GRPOTrainer._compute_loss`` reads of a trainer, with a model that gives these log-probs."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    made = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logprobs, entropies, None),
        accelerator=ALONE,
        args=config,
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        aux_loss_enabled=False,
        off_policy_mask_threshold=config.off_policy_mask_threshold,
        _entropy_bonus_enabled=config.entropy_coef != 0,
        use_adaptive_entropy=False,
        entropy_coef=config.entropy_coef,
        use_vllm=False,
        current_gradient_accumulation_steps=config.gradient_accumulation_steps,
        epsilon_low=config.epsilon,
        epsilon_high=config.epsilon if config.epsilon_high is None else config.epsilon_high,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
    )
    for name in READ:
        setattr(made, name, getattr(config, name))
    made.get_high_entropy_mask = lambda *args: GRPOTrainer.get_high_entropy_mask(made, *args)
    return made


def trl_loss(config: Any, batch: Any) -> Tensor:
    """The loss that ``GRPOTrainer`` computes.

    Args:
        batch: ``logprobs, entropies, old, ref, mask`` ``[N, T]`` and ``advantages`` ``[N]``.
    """
    from trl.trainer.grpo_trainer import GRPOTrainer

    ones = torch.ones(len(batch.mask), 2, dtype=torch.long)
    inputs = {
        "prompt_ids": ones,
        "prompt_mask": ones,
        "completion_ids": batch.mask.long(),
        "completion_mask": batch.mask.long(),
        "advantages": batch.advantages,
        "num_items_in_batch": batch.mask.sum(),
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.ref,
    }
    made = stub(config, batch.logprobs, batch.entropies)
    loss: Tensor = GRPOTrainer._compute_loss(made, made.model, inputs)
    return loss


def trl_advantages(rewards: Tensor, scale: str) -> Tensor:
    """``[N]`` the advantages of ``[B, G]`` rewards, as ``GRPOTrainer`` computes them."""
    centred = rewards - rewards.mean(1, keepdim=True)
    deviation = {"group": rewards.std(1, keepdim=True), "batch": rewards.std(), "none": None}[scale]
    return (centred if deviation is None else centred / (deviation + 1e-4)).flatten()
