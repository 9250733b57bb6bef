"""Loading a Hugging Face causal LM and its tokenizer."""

from __future__ import annotations

from typing import Any

import torch

from lgrpo_lightning.policy.attention import tree_capable
from lgrpo_lightning.policy.config import PolicyConfig
from lgrpo_lightning.policy.lora import add_adapter


def load_config(config: PolicyConfig) -> Any:
    """The model's Hugging Face configuration, with the dropout of ``config``."""
    from transformers import AutoConfig

    hf_config = AutoConfig.from_pretrained(config.resolved_path, revision=config.revision)
    _set_dropout(hf_config, config.dropout)
    return hf_config


def load_model(config: PolicyConfig) -> Any:
    """The causal LM in training mode, gradient checkpointing as configured."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        config.resolved_path,
        config=load_config(config),
        revision=config.revision,
        dtype=getattr(torch, config.dtype),
        attn_implementation=tree_capable(config.attn_implementation),
        **config.model_kwargs,
    )
    if getattr(model.config, "quantization_config", None) is not None:
        raise ValueError(
            f"{config.path!r} is quantised. Quantised bases are not supported: their log-probs differ from those "
            "that an inference engine gives by more than an update changes. Load the model in bfloat16."
        )
    if config.lora:
        add_adapter(model, config.lora)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def load_tokenizer(config: PolicyConfig) -> Any:
    """The tokenizer; one without a pad token pads with its end of sequence (attention masks keep them apart)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(config.resolved_tokenizer, revision=config.revision)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def eos_token_ids(config: PolicyConfig, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a completion: the generation config's, else the model config's, else the tokenizer's.

    Raises:
        ValueError: There is none, so that no completion would ever end.
    """
    from transformers import GenerationConfig

    found: Any = None
    try:
        found = GenerationConfig.from_pretrained(config.resolved_path, revision=config.revision).eos_token_id
    except OSError:  # the file is optional
        found = None
    if found is None:
        found = load_config(config).eos_token_id
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        raise ValueError(
            f"The model {config.path!r} has no end-of-sequence token: no completion would end before "
            "sampling.max_new_tokens. Set eos_token_id in its generation_config.json or config.json, or use a "
            "tokenizer with an eos_token (policy.tokenizer)."
        )
    return tuple(found) if isinstance(found, (list, tuple)) else (int(found),)


def context_length(hf_config: Any) -> int:
    """Most positions the model was built for; a very large number where its config names none."""
    text = hf_config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 2**31)


def _set_dropout(hf_config: Any, value: float) -> None:
    text = hf_config.get_text_config()
    for name, old in list(vars(text).items()):
        if isinstance(old, float) and ("dropout" in name or name.endswith("_pdrop")):
            setattr(text, name, value)
