"""Loading a Hugging Face causal LM and its tokenizer."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import (  # type: ignore[attr-defined]
    rank_zero_info,
    rank_zero_warn,
)

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.attention import register_tree_attention
from lgrpo_lightning.policy.config import NOT_QUANTISED, PolicyConfig
from lgrpo_lightning.policy.lora import add_adapter
from lgrpo_lightning.policy.multimodal import choose_auto_class, find_architecture, freeze_outside_of_text
from lgrpo_lightning.policy.quantization import make_quantization_config, prepare_quantised
from lgrpo_lightning.policy.refusals import check_weights, explain_load_errors
from lgrpo_lightning.policy.rotary import settle_frequencies
from lgrpo_lightning.policy.training_noise import set_dropout_modules, set_training_noise


def load_config(config: PolicyConfig) -> Any:
    """The model's Hugging Face configuration: with the entries of ``model_kwargs`` and the dropout of ``config``."""
    return _load_config_and_rest(config)[0]


def _load_config_and_rest(config: PolicyConfig) -> tuple[Any, dict[str, Any]]:
    """The configuration, and those of ``model_kwargs`` that are no entries of it but arguments of the loading."""
    from transformers import AutoConfig

    with explain_load_errors("policy.path", config.path, config.resolved_path):
        # without trust_remote_code transformers asks on the terminal whether code may be run
        options = {"revision": config.revision, "trust_remote_code": False, **config.model_kwargs}
        hf_config, rest = AutoConfig.from_pretrained(config.resolved_path, return_unused_kwargs=True, **options)
    if getattr(hf_config, "quantization_config", None) is not None:
        raise UserError(f"policy.path is {config.path!r}, which is quantised. {NOT_QUANTISED}")
    text = hf_config.get_text_config()
    for name in [name for name in rest if hasattr(text, name)]:  # of a model in a multimodal one
        setattr(text, name, rest.pop(name))
    set_training_noise(hf_config, config.dropout)
    return hf_config, rest


def load_model(config: PolicyConfig, *, longest: int | None = None) -> Any:
    """The causal LM in training mode, gradient checkpointing as configured.

    Args:
        longest: Most tokens of a prompt and its completion, where that is known.
    """
    hf_config, rest = _load_config_and_rest(config)
    own_rope_parameters = settle_frequencies(hf_config, longest)
    _turn_off_router_outputs(hf_config)
    arguments = {
        "trust_remote_code": config.trust_remote_code,
        "dtype": getattr(torch, config.dtype),
        "attn_implementation": choose_attention(hf_config, config.attn_implementation),
        **{k: v for k, v in rest.items() if k not in ("revision", "trust_remote_code")},
    }
    if config.quantization:
        if config.weights == "random":
            raise UserError(
                "policy.quantization quantises weights as they are read from files, and policy.weights is 'random'. "
                "Use weights: pretrained, or quantization: null."
            )
        arguments["quantization_config"] = make_quantization_config(config.quantization, arguments["dtype"])
    with explain_load_errors("policy.path", config.path, config.resolved_path):
        model, info = _load_weights(config, hf_config, arguments)
    if config.quantization:
        prepare_quantised(model)
    if info is not None:
        check_weights("policy.path", config.path, model, info)
    if model.config.is_encoder_decoder:
        raise UserError(
            f"policy.path is {config.path!r}, an encoder-decoder model ({type(model).__name__}). A causal language "
            "model is needed: one that continues its prompt."
        )
    model.own_rope_parameters = own_rope_parameters
    set_dropout_modules(model, config.dropout)
    if kept := freeze_outside_of_text(model):
        rank_zero_info(
            f"{type(model).__name__} takes more than text. {kept:,} weights that text does not go through are kept as "
            "they are, and exported."
        )
    if config.lora:
        add_adapter(model, config.lora)
    if config.gradient_checkpointing:
        # the reentrant kind gives no gradients where inputs need none, as under an adapter
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def _load_weights(config: PolicyConfig, hf_config: Any, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """The model and what transformers tells of its weights; None of that where they are random."""
    auto_class = choose_auto_class(hf_config)
    if config.weights == "random":
        # the same for one seed of the run, and rollouts must not depend on whether weights were drawn or loaded
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(read_run_seed())
            return auto_class.from_config(hf_config, **arguments), None
    arguments |= {"revision": config.revision, "output_loading_info": True, "ignore_mismatched_sizes": True}
    pair: tuple[Any, Any] = auto_class.from_pretrained(config.resolved_path, config=hf_config, **arguments)
    return pair


def choose_attention(hf_config: Any, wanted: str) -> str:
    """The attention implementation to load with: ``wanted``, able to run trees where the architecture lets one choose.

    Architectures without "sdpa" (attention sinks; no attention at all) run what they have: "eager".
    """
    architecture = find_architecture(hf_config)
    if wanted == "sdpa" and not getattr(architecture, "_supports_sdpa", True):
        return "eager"
    own_classes = architecture is not None and not getattr(architecture, "_supports_attention_backend", True)
    return wanted if own_classes else register_tree_attention(wanted)


def _turn_off_router_outputs(hf_config: Any) -> None:
    """Turn the router outputs of a mixture of experts off: they cost memory, and sampling does not expect them."""
    text = hf_config.get_text_config()
    asked = [c for c in (hf_config, text) if getattr(c, "output_router_logits", False)]
    for config in asked:
        config.output_router_logits = False
    if asked:
        rank_zero_warn(
            "The model's config.json sets output_router_logits (router_aux_loss_coef: "
            f"{getattr(text, 'router_aux_loss_coef', None)}). The router's auxiliary loss is not part of this "
            "objective, so experts are not balanced in training; its outputs are turned off."
        )


def load_tokenizer(config: PolicyConfig) -> Any:
    """The tokenizer; one without a pad token pads with its end of sequence (attention masks keep them apart)."""
    from transformers import AutoTokenizer

    key, path = ("policy.tokenizer", config.tokenizer) if config.tokenizer else ("policy.path", config.path)
    with explain_load_errors(key, path, config.resolved_tokenizer):
        tokenizer = AutoTokenizer.from_pretrained(
            config.resolved_tokenizer, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def find_context_length(hf_config: Any) -> int:
    """Most positions the model was built for; a very large number where its config names none."""
    text = hf_config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 2**31)


def read_run_seed() -> int:
    """The seed set by ``seed_everything``, else 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
