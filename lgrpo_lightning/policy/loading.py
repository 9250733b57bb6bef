"""Loading a Hugging Face causal LM and its tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lgrpo_lightning.policy.attention import tree_capable
from lgrpo_lightning.policy.config import NOT_QUANTISED, PolicyConfig
from lgrpo_lightning.policy.lora import add_adapter


def load_config(config: PolicyConfig) -> Any:
    """The model's Hugging Face configuration, with the dropout of ``config``."""
    from transformers import AutoConfig

    with _explained("policy.path", config.path, config.resolved_path):
        hf_config = AutoConfig.from_pretrained(config.resolved_path, revision=config.revision)
    if getattr(hf_config, "quantization_config", None) is not None:
        raise ValueError(f"policy.path is {config.path!r}, which is quantised. {NOT_QUANTISED}")
    _set_dropout(hf_config, config.dropout)
    return hf_config


def load_model(config: PolicyConfig) -> Any:
    """The causal LM in training mode, gradient checkpointing as configured."""
    from transformers import AutoModelForCausalLM

    hf_config = load_config(config)
    with _explained("policy.path", config.path, config.resolved_path):
        model = AutoModelForCausalLM.from_pretrained(
            config.resolved_path,
            config=hf_config,
            revision=config.revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation=tree_capable(config.attn_implementation),
            **config.model_kwargs,
        )
    if config.lora:
        add_adapter(model, config.lora)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def load_tokenizer(config: PolicyConfig) -> Any:
    """The tokenizer; one without a pad token pads with its end of sequence (attention masks keep them apart)."""
    from transformers import AutoTokenizer

    key, path = ("policy.tokenizer", config.tokenizer) if config.tokenizer else ("policy.path", config.path)
    with _explained(key, path, config.resolved_tokenizer):
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


@contextmanager
def _explained(key: str, path: str, resolved: str) -> Iterator[None]:
    """Names the option behind what transformers refuses to load, and what is there instead.

    Raises:
        ValueError: With the key, its value and the reason.
    """
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{key} is {path!r}: {_reason(resolved, error)}") from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        name = str(error).rpartition("argument")[2].strip()
        raise ValueError(
            f"policy.model_kwargs has {name}, which the model {path!r} does not take ({error}). It takes the "
            "arguments of AutoModelForCausalLM.from_pretrained and the entries of the model's config.json."
        ) from error


def _reason(path: str, error: Exception) -> str:
    """Why a model or tokenizer cannot be loaded from ``path``."""
    folder, said = Path(path).expanduser(), str(error).strip().partition("\n")[0]
    if not folder.exists() and path.startswith((".", "/", "~")):
        return f"there is no such folder (looked in {Path.cwd()}). Give one with config.json and model.safetensors."
    if not folder.exists():
        offline = (
            " (HF_HUB_OFFLINE is set: only its cache is searched)" if os.environ.get("HF_HUB_OFFLINE") else ""
        )
        return (
            f"there is no such folder (looked in {Path.cwd()}), and no model of that name can be loaded from the "
            f"Hugging Face hub{offline}: {said} Give a folder with config.json, model.safetensors and "
            "tokenizer.json, a name such as Qwen/Qwen2.5-0.5B-Instruct, or lgrpo:arithmetic."
        )
    needed = ("config.json", "tokenizer_config.json")
    if folder.is_dir() and (missing := [name for name in needed if not (folder / name).is_file()]):
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:12]) or "nothing"
        return f"this folder lacks {' and '.join(missing)}; in it: {there}."
    return f"transformers refuses to load it: {said}"
