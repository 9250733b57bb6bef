"""Checkpoints that take images, video or audio beside text: loaded whole, trained on text, exported whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from lgrpo_lightning.policy.head import find_backbone

PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
)
"""What a processor reads beside the tokenizer's files."""


BESIDE_EMBEDDINGS = "embed_tokens_extend"
"""Where Phi-4 multimodal, one configuration for all its parts, keeps those of images and sound."""


MODELS = {
    "AutoModelForMultimodalLM": "MODEL_FOR_MULTIMODAL_LM_MAPPING",
    "AutoModelForImageTextToText": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING",
}
"""Class of transformers that loads a model → its models by configuration. The first that fits drops no part."""


def choose_auto_class(hf_config: Any) -> Any:
    """The class of transformers that loads every part of a model.

    ``AutoModelForCausalLM`` would drop the vision part of some checkpoints (Llama 4, Qwen3.5) and does not know others
    (Qwen3-VL, Mistral 3).
    """
    import transformers

    fits = [name for name, models in MODELS.items() if type(hf_config) in getattr(transformers, models, ())]
    composite = hf_config.get_text_config() is not hf_config
    causal = "AutoModelForCausalLM" in fits and not composite
    return getattr(transformers, "AutoModelForCausalLM" if causal or not fits else fits[0])


def find_architecture(hf_config: Any) -> Any:
    """The class of the model itself, or None where transformers has none."""
    import transformers

    models = getattr(transformers, MODELS[choose_auto_class(hf_config).__name__])
    return models.get(type(hf_config), None)


def find_outside_of_text(model: Any) -> dict[str, nn.Module]:
    """The modules that no text goes through, by name: those outside the backbone and the head.

    Empty for a language model.
    """
    if model.config.get_text_config() is model.config:
        return {n: m for n, m in model.named_modules() if BESIDE_EMBEDDINGS in n.split(".")}
    text = {id(m) for part in (find_backbone(model), model.get_output_embeddings()) for m in part.modules()}
    holds_text = {
        name for name, module in model.named_modules() if any(id(inner) in text for inner in module.modules())
    }
    return {name: m for name, m in model.named_modules() if name not in holds_text}


def freeze_outside_of_text(model: Any) -> int:
    """Freeze the weights that text does not use; return their number."""
    frozen = [p for module in find_outside_of_text(model).values() for p in module.parameters(recurse=False)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return sum(p.numel() for p in frozen)


def copy_processor(path: str, revision: str | None, out: Path) -> None:
    """Put the files of the processor of images and sound, where the model at ``path`` has one, into ``out``."""
    from transformers.utils import cached_file

    for name in PROCESSOR_FILES:
        file = cached_file(
            path,
            name,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if file is not None:
            shutil.copyfile(file, out / name)
