"""From a policy or a checkpoint to a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lgrpo_lightning.policy.lora import merge
from lgrpo_lightning.policy.policy import Policy

PREFIX = "policy.model."


def load_weights(policy: Policy, state_dict: Mapping[str, Tensor]) -> None:
    """Take a checkpoint's weights into ``policy``; those of an adapter alone are enough where it has one.

    Raises:
        ValueError: Weights are missing or do not belong to this model.
    """
    ours = {name.removeprefix(PREFIX): t for name, t in state_dict.items() if name.startswith(PREFIX)}
    missing, unexpected = policy.model.load_state_dict(ours, strict=False)
    needed = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    if unexpected or needed & set(missing):
        raise ValueError(
            f"The checkpoint does not fit the model {policy.config.path!r}: missing "
            f"{sorted(needed & set(missing))[:3]}, not expected {list(unexpected)[:3]}."
        )


def export(policy: Policy, tokenizer: Any, out: Path, *, adapter: bool = False) -> None:
    """Write a folder that ``AutoModelForCausalLM.from_pretrained`` loads. Merging changes ``policy``.

    Args:
        out: The folder; made where it is missing.
        adapter: Write the LoRA adapter alone, in place of the merged model.

    Raises:
        ValueError: ``adapter`` without LoRA.
    """
    if adapter and not policy.config.lora:
        raise ValueError("There is no adapter to export: the run trained all weights (policy.lora is null).")
    if policy.config.lora and not adapter:
        merge(policy.model)
    out.mkdir(parents=True, exist_ok=True)
    policy.model.save_pretrained(out)
    tokenizer.save_pretrained(out)
